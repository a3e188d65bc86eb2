"""The Serve application: its replicas, the registry of its processes, starting, draining."""
