"""`expertmesh chat`: a conversation with a running server."""
