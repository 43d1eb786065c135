"""Architectures behind one interface: `segment` is the protocol, one file a model, primitives beside them."""
