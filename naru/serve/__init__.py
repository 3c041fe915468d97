"""Serving: loaded models behind the Open Inference Protocol, over HTTP and gRPC.

The order of a request: http or grpc (bytes to named arrays) -> dataplane (which model; may it; is
there room) -> servable (the signature's checks, the queue, the run) -> back. Only http*, grpc* and
the modules of content types (json_tensors, rows, images, arrow) know how things look on the wire.
"""
