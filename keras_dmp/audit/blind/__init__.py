"""The blind baseline: do members and nonmembers differ without the model?"""
