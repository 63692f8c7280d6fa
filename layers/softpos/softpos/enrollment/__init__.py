"""The enrollment: an operator and a device in, a `request_uri` out, within one deadline, on Nexi's bad days too."""
