"""Storage: atomic files, private directories, checkpoints and folders of arrays."""
