"""Bytes on disk: whole files, private folders, checkpoints, folders of arrays."""
