"""Keras callbacks: what an audit observes while a model trains."""
