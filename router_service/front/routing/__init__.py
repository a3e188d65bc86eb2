"""The routers that can be reached, and the streams on them."""
