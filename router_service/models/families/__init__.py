"""Model families, one file each: configuration, tensor names, the gate's rule."""
