"""Nexi's B2B protocol: mutual TLS, token, JWKS, client assertion, and the pushed authorization request (RFC 9126)."""
