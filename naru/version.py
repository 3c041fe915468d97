"""The version, in one place that needs no other module."""

VERSION = "0.1.0"
