"""The live page: what it shows, made on the server, and the page itself in `static`."""
