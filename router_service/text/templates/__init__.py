"""Chat templates, compiled and rendered in a process of their own because they are untrusted."""
