"""What softpos's functions share: from "this operator, this device" to a `request_uri` from Nexi.

Nothing here knows an API Gateway event, and only `problems` knows an HTTP status of ours.
"""
