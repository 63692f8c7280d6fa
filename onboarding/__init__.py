"""The `softpos` command: from a certificate signing request to the first `request_uri`, and what to look at after.

Runs on an engineer's machine or in CI, with the AWS credentials that `aws` would use there. Never deployed.
"""
