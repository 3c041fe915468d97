"""What is in a bundle and where its time goes: as text, JSON, a page, a trace, assembly."""
