"""Folders of models: every model of a repository is compressed, and everything else is copied."""
