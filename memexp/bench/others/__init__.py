"""What we are compared with: a plain decoder, faiss, and packages of others."""
