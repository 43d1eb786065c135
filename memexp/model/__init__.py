"""Architectures behind one interface, which is in `segment`: one file for each model, and packages of shared parts."""
