"""A certificate is replaced while phones enroll: none of them notices."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable

from backends import Backend, bearer, client, secret

from sandbox.local import LocalStack
from softpos.credentials import MIN_AGE_SECONDS

PHONES = 3


def test_no_enrollment_fails_while_a_certificate_is_replaced(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    """As an operator does it: Nexi registers the new one, it becomes current, and some time later the old one goes."""
    app, old, new = stack.app, stack.authority.developer("OLD"), stack.authority.developer("NEW")
    app.register(old.certificate, old.thumbprint)
    secret_id = secret(stack, {"certificate": old.certificate_pem, "private_key": old.key_pem})
    api = start_backend({"CERTIFICATE_SECRET_ID": secret_id})
    outcomes: Counter[str] = Counter()
    replaced = threading.Event()
    done = threading.Event()
    warm = threading.Event()
    served: set[int] = set()
    token = bearer(stack)

    def use_phone(number: int) -> None:
        while not done.is_set():
            response = api.post({"device_id": f"device-{number}"}, token)
            outcome = "201" if response.status_code == 201 else str(response.json().get("code"))
            if outcome == "backend_unavailable":
                # A machine that is too busy for moto to answer in time. Of certificates it says nothing.
                continue
            served.add(number)
            if len(served) == PHONES:
                warm.set()
            outcomes[f"{'after' if replaced.is_set() else 'before'} {outcome}"] += 1

    phones = [threading.Thread(target=use_phone, args=(number,)) for number in range(PHONES)]
    for phone in phones:
        phone.start()
    try:
        assert warm.wait(30)
        app.register(new.certificate, new.thumbprint)
        value = {"certificate": new.certificate_pem, "private_key": new.key_pem}
        client(stack, "secretsmanager").put_secret_value(SecretId=secret_id, SecretString=json.dumps(value))
        # Who has read the old one a moment ago does not read again at once.
        time.sleep(MIN_AGE_SECONDS + 1)
        refused = stack.nexi.counts["reject certificate"]
        del app.certificates[old.thumbprint]
        replaced.set()
        time.sleep(6)
    finally:
        done.set()
        for phone in phones:
            phone.join(30)
        app.certificates.pop(new.thumbprint, None)

    assert set(outcomes) == {"before 201", "after 201"}, outcomes
    assert outcomes["after 201"] > PHONES
    assert stack.nexi.counts["reject certificate"] > refused, "the old one was in use, and was refused"


def test_what_is_put_right_in_a_secret_serves_the_enrollment_that_would_have_been_refused(
    start_backend: Callable[..., Backend], stack: LocalStack
) -> None:
    """A 400 has the secrets read again: it may be for a redirect_uri, or a key, that a newer version has put right."""
    app = stack.app
    application = {"client_id": app.client_id, "client_secret": app.client_secret, "redirect_uri": app.redirect_uri}
    secret_id = secret(stack, {**application, "redirect_uri": "https://merchant.example/typo"})
    api = start_backend({"APPLICATION_SECRET_ID": secret_id})
    assert api.enroll().json()["code"] == "nexi_rejected"
    client(stack, "secretsmanager").put_secret_value(SecretId=secret_id, SecretString=json.dumps(application))
    time.sleep(MIN_AGE_SECONDS)
    served = api.enroll()
    assert served.status_code == 201
    assert api.line(served)["recovery"] == ["secrets"]
