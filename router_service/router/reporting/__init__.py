"""What a router tells its Fronts of itself and its shards about once a second."""
