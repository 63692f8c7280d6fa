"""The TLS context and what becomes of failures. No network: handshakes are between two ends in memory.

What needs a server that talks HTTP (keep-alive, deadlines while reading, alerts) is in the integration tests.
"""

import dataclasses
import hashlib
import json
import os
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from requests.adapters import BaseAdapter
from unit_support import Clock, RsaPair
from urllib3.exceptions import ProtocolError
from urllib3.util import create_urllib3_context

from sandbox.authority import Authority, Issued
from softpos.credentials import Certificate
from softpos.deadline import Deadline
from softpos.errors import (
    CredentialsRefusedError,
    MisconfiguredError,
    NexiTimeoutError,
    NexiUnavailableError,
    OutOfTimeError,
    SoftposError,
)
from softpos.nexi import session as nexi_session
from softpos.nexi.session import MutualTlsSession

URL = "https://nexi.example/softpos/as/par"


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """An authority that nobody asked to trust."""
    return Authority("stranger")


@pytest.fixture
def bundle(tmp_path: Path, authority: Authority) -> str:
    file = tmp_path / "authority.pem"
    file.write_text(authority.certificate_pem)
    return str(file)


@pytest.fixture
def system_bundle(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system's bundle, in place of whatever this machine has; the environment still has its say about the rest."""
    file = tmp_path / "system.pem"
    file.write_text(authority.certificate_pem)
    ask = ssl.get_default_verify_paths
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: ask()._replace(openssl_cafile=str(file)))
    return str(file)


def context_of(session: MutualTlsSession) -> ssl.SSLContext:
    """The context that HTTPS connections of this session are made with. There is no public way to it."""
    context: ssl.SSLContext = session._adapter.poolmanager.connection_pool_kw["ssl_context"]
    return context


def trusted(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))


def der(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.DER)


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "nexi.example") -> ssl.SSLObject:
    """A whole handshake in memory; the server's end of it. Raises what the client or the server raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            return ends[1]
    raise AssertionError("the handshake does not end")


@pytest.fixture
def server(authority: Authority) -> ssl.SSLContext:
    """A server of the right authority that demands a client certificate."""
    context = authority.server("nexi.example").context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.certificate_pem)
    return context


class TestWhoIsTrusted:
    def test_the_authority_of_the_bundle_and_nobody_else(
        self, certificate: Certificate, bundle: str, authority: Authority
    ) -> None:
        assert trusted(context_of(MutualTlsSession(certificate, bundle))) == {der(authority)}

    def test_every_authority_of_a_bundle(
        self, certificate: Certificate, tmp_path: Path, authority: Authority, stranger: Authority
    ) -> None:
        both = tmp_path / "both.pem"
        both.write_text(authority.certificate_pem + stranger.certificate_pem)
        context = context_of(MutualTlsSession(certificate, str(both)))
        assert trusted(context) == {der(authority), der(stranger)}

    def test_the_systems_authorities_when_no_bundle_is_named(
        self, certificate: Certificate, system_bundle: str, authority: Authority
    ) -> None:
        assert trusted(context_of(MutualTlsSession(certificate, None))) == {der(authority)}

    def test_the_next_place_of_the_systems_bundle_when_python_knows_none(
        self,
        certificate: Certificate,
        bundle: str,
        system_bundle: str,
        monkeypatch: pytest.MonkeyPatch,
        authority: Authority,
    ) -> None:
        """A Python built elsewhere has a path for it that does not exist here."""
        Path(system_bundle).unlink()
        monkeypatch.setattr(nexi_session, "_SYSTEM_BUNDLES", (system_bundle, bundle))
        assert trusted(context_of(MutualTlsSession(certificate, None))) == {der(authority)}

    def test_the_environment_does_not_redirect_the_systems_trust(
        self,
        certificate: Certificate,
        system_bundle: str,
        server: ssl.SSLContext,
        stranger: Authority,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        redirect(monkeypatch, tmp_path, stranger)
        imposter = stranger.server("nexi.example").context(ssl.PROTOCOL_TLS_SERVER)
        # Python's own default does fall for it. Without this, what follows would prove nothing.
        assert shake_hands(ssl.create_default_context(), imposter).version()

        context = context_of(MutualTlsSession(certificate, None))
        assert der(stranger) not in trusted(context)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, imposter)
        assert shake_hands(context, server).version()

    def test_the_environment_adds_nobody_to_a_bundle(
        self,
        certificate: Certificate,
        bundle: str,
        stranger: Authority,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        redirect(monkeypatch, tmp_path, stranger)
        context = context_of(MutualTlsSession(certificate, bundle))
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, stranger.server("nexi.example").context(ssl.PROTOCOL_TLS_SERVER))

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param("", id="empty"),
            pytest.param("no certificate", id="garbage"),
            pytest.param("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", id="garbled"),
        ],
    )
    def test_a_bundle_without_certificates_is_refused(
        self, certificate: Certificate, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "bundle.pem"
        file.write_text(content)
        with pytest.raises(MisconfiguredError, match="NEXI_CA_BUNDLE holds no certificates in PEM") as caught:
            MutualTlsSession(certificate, str(file))
        assert "NEXI_CA_BUNDLE" in caught.value.remedy

    @pytest.mark.parametrize("name", ["absent.pem", ".", "\0"], ids=["missing", "a-folder", "no-path-at-all"])
    def test_a_bundle_that_is_no_file_is_refused(self, certificate: Certificate, tmp_path: Path, name: str) -> None:
        with pytest.raises(MisconfiguredError, match="NEXI_CA_BUNDLE names no file"):
            MutualTlsSession(certificate, str(tmp_path / name))

    def test_a_system_without_a_bundle_is_told_of(
        self, certificate: Certificate, system_bundle: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rather than to trust nobody, and to blame the server for it."""
        Path(system_bundle).unlink()
        monkeypatch.setattr(nexi_session, "_SYSTEM_BUNDLES", ())
        with pytest.raises(MisconfiguredError, match="the system has no bundle of authorities"):
            MutualTlsSession(certificate, None)


def redirect(monkeypatch: pytest.MonkeyPatch, folder: Path, authority: Authority) -> None:
    """Point everything in the environment that OpenSSL and requests look at to `authority`."""
    hashed = folder / "hashed"
    hashed.mkdir()
    file = hashed / f"{openssl_hash(authority.certificate.subject):08x}.0"
    file.write_text(authority.certificate_pem)
    monkeypatch.setenv("SSL_CERT_DIR", str(hashed))
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(file))


def openssl_hash(name: x509.Name) -> int:
    """The hash that files in SSL_CERT_DIR go by: SHA-1 over the name's attributes in canonical form."""
    (attribute,) = name
    value = str(attribute.value).lower().encode()
    oid = bytes([0x06, 0x03, 0x55, 0x04, 0x03])
    pair = oid + bytes([0x0C, len(value)]) + value
    sequence = bytes([0x30, len(pair)]) + pair
    canonical = bytes([0x31, len(sequence)]) + sequence
    return int.from_bytes(hashlib.sha1(canonical).digest()[:4], "little")


class TestTheHandshake:
    @pytest.fixture
    def context(self, certificate: Certificate, bundle: str) -> ssl.SSLContext:
        return context_of(MutualTlsSession(certificate, bundle))

    def test_the_certificate_is_shown(
        self, context: ssl.SSLContext, server: ssl.SSLContext, certificate: Certificate
    ) -> None:
        shown = shake_hands(context, server).getpeercert(binary_form=True)
        assert hashlib.sha256(shown or b"").hexdigest() == certificate.thumbprint

    def test_a_server_of_another_authority_is_refused(self, context: ssl.SSLContext, stranger: Authority) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
            shake_hands(context, stranger.server("nexi.example").context(ssl.PROTOCOL_TLS_SERVER))

    def test_a_server_of_another_name_is_refused(self, context: ssl.SSLContext, authority: Authority) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(context, authority.server("other.example").context(ssl.PROTOCOL_TLS_SERVER))

    def test_a_developer_certificate_makes_no_server(self, context: ssl.SSLContext, developer: Issued) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, developer.context(ssl.PROTOCOL_TLS_SERVER), "UNIT TESTS")

    def test_nothing_older_than_tls_1_2_is_spoken(self, context: ssl.SSLContext) -> None:
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2

    def test_tls_1_2_is_spoken(self, context: ssl.SSLContext, server: ssl.SSLContext) -> None:
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        assert shake_hands(context, server).version() == "TLSv1.2"

    def test_certificate_and_host_name_are_checked(self, context: ssl.SSLContext) -> None:
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


class TestTheContext:
    """Our SSLContext beside the one that urllib3 would make."""

    DIFFERENCES: ClassVar[dict[str, str]] = {
        "sslsocket_class": "keeps to the deadline",
        "options": "urllib3 asks for no TLS 1.2 ticket; we resume sessions",
        "verify_flags": "NEXI_CA_BUNDLE may lack the root, on every Python; strict chains are not demanded of it",
    }

    def test_each_difference_from_urllib3s_context_has_a_reason(
        self, certificate: Certificate, bundle: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
        ours, theirs = context_of(MutualTlsSession(certificate, bundle)), create_urllib3_context()
        attributes = [name for name in dir(theirs) if not name.startswith("_") and not callable(getattr(theirs, name))]
        assert "post_handshake_auth" in attributes
        different = {name for name in [*attributes, "sslsocket_class"] if getattr(ours, name) != getattr(theirs, name)}
        assert different <= set(self.DIFFERENCES)
        assert {"sslsocket_class", "options"} <= different

    def test_the_options_differ_in_tickets_alone(self, certificate: Certificate, bundle: str) -> None:
        ours, theirs = context_of(MutualTlsSession(certificate, bundle)), create_urllib3_context()
        assert ours.options | ssl.OP_NO_TICKET == theirs.options

    def test_a_chain_may_end_at_any_trusted_authority(self, certificate: Certificate, bundle: str) -> None:
        flags = context_of(MutualTlsSession(certificate, bundle)).verify_flags
        assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN


class TestTheKey:
    def test_a_key_of_another_certificate_is_refused(
        self, certificate: Certificate, bundle: str, other_key: RsaPair
    ) -> None:
        mismatched = dataclasses.replace(certificate, key_pem=other_key.private_pem.encode())
        with pytest.raises(MisconfiguredError, match="OpenSSL does not load the certificate and its key") as caught:
            MutualTlsSession(mismatched, bundle)
        assert other_key.private_pem.splitlines()[1] not in f"{caught.value} {caught.value.__cause__}"

    def test_a_chain_that_is_too_long_for_a_pipe_is_refused(self, certificate: Certificate, bundle: str) -> None:
        """And does not block: nobody reads the pipe while it is written to."""
        endless = dataclasses.replace(certificate, chain_pem=certificate.chain_pem * 2000)
        with pytest.raises(MisconfiguredError, match="longer than a pipe holds"):
            MutualTlsSession(endless, bundle)

    def test_loading_it_leaves_no_file_open(self, certificate: Certificate, bundle: str) -> None:
        before = set(os.listdir("/dev/fd"))  # noqa: PTH208 - numbers, not paths
        for _ in range(3):
            MutualTlsSession(certificate, bundle)
        assert set(os.listdir("/dev/fd")) == before  # noqa: PTH208 - numbers, not paths

    def test_it_is_never_written_to_a_disk(
        self, certificate_secret: str, bundle: str, tmp_path: Path, code_on_path: dict[str, str]
    ) -> None:
        """Audited by a fresh interpreter: whatever is opened for writing, made temporary, or handed to OpenSSL."""
        program = """
            import json, os, ssl, stat, sys
            from softpos.credentials import parse_certificate
            from softpos.nexi.session import MutualTlsSession

            certificate = parse_certificate(sys.stdin.read())
            written, loaded = [], []

            def load_cert_chain(context, *paths, load=ssl.SSLContext.load_cert_chain):
                loaded.extend(stat.S_ISFIFO(os.stat(path).st_mode) for path in paths)
                load(context, *paths)

            def audit(event, arguments):
                if event == "open" and not isinstance(arguments[0], int):
                    if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                        written.append(repr(arguments))
                elif event.startswith(("tempfile.", "os.mkdir", "os.rename", "os.link", "shutil.")):
                    written.append(event)

            ssl.SSLContext.load_cert_chain = load_cert_chain
            sys.addaudithook(audit)
            MutualTlsSession(certificate, sys.argv[1])
            print(json.dumps({"written": written, "pipes": loaded}))
        """
        folder = tmp_path / "empty"
        folder.mkdir()
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), bundle],
            input=certificate_secret,
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env={**code_on_path, "TMPDIR": str(folder)},
        )
        assert json.loads(run.stdout) == {"written": [], "pipes": [True, True]}
        assert list(folder.iterdir()) == []


class TestTheEnvironment:
    @pytest.fixture
    def session(self, certificate: Certificate, bundle: str) -> MutualTlsSession:
        return MutualTlsSession(certificate, bundle)

    def test_neither_proxy_nor_bundle_nor_password_is_taken_from_it(
        self, session: MutualTlsSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine nexi.example login me password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(netrc))
        # What requests itself does with them. Without this, what follows would prove nothing.
        theirs = requests.Session()
        unplugged = Unplugged(ConnectionError())
        theirs.mount("https://", unplugged)
        with pytest.raises(ConnectionError):
            theirs.get(URL)
        assert unplugged.sent[0].proxies["https"] == "http://proxy.example:3128"
        assert unplugged.sent[0].verify == str(netrc)

        session._adapter = unplugged  # type: ignore[assignment]  # a fake
        with pytest.raises(NexiUnavailableError):
            session.send("GET", URL, Deadline(5.0))
        sent = unplugged.sent[1]
        assert sent.proxies == {}
        assert sent.verify is True
        assert set(sent.headers) == {"Accept", "Accept-Encoding", "Connection", "User-Agent"}


@dataclasses.dataclass
class Sent:
    """What an adapter was given."""

    headers: dict[str, str]
    proxies: dict[str, str]
    verify: Any


class Unplugged(BaseAdapter):
    """In place of the network: notes what was to be sent, and fails."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure
        self.sent: list[Sent] = []

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        self.sent.append(Sent(dict(request.headers), dict(options.get("proxies", {})), options.get("verify", True)))
        raise self.failure

    def close(self) -> None:
        pass


def verification_error(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message}")
    error.verify_message = message
    return error


def tls_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


def wrapped(cause: Exception) -> requests.ConnectionError:
    """As requests hands over what urllib3 raised: neither as `__cause__` nor as text alone, but as an argument."""
    return requests.ConnectionError(ProtocolError("Connection aborted.", cause))


class TestWhatBecomesOfFailures:
    @pytest.fixture
    def failing(self, certificate: Certificate, bundle: str) -> Callable[[Exception], SoftposError]:
        session = MutualTlsSession(certificate, bundle)

        def fail(failure: Exception) -> SoftposError:
            session._adapter = Unplugged(failure)  # type: ignore[assignment]  # a fake
            with pytest.raises(SoftposError) as caught:
                session.send("POST", URL, Deadline(5.0), form={"client_secret": "s3cr3t"})
            assert caught.value.__cause__ is failure
            assert "s3cr3t" not in f"{caught.value} {caught.value.remedy}"
            return caught.value

        return fail

    @pytest.mark.parametrize(
        ("failure", "error", "found"),
        [
            pytest.param(
                wrapped(verification_error("self-signed certificate")),
                MisconfiguredError,
                "is not trusted (self-signed certificate)",
                id="an-untrusted-server",
            ),
            pytest.param(
                wrapped(tls_error("TLSV1_ALERT_UNKNOWN_CA")),
                CredentialsRefusedError,
                "Nexi ended the handshake (TLSV1_ALERT_UNKNOWN_CA)",
                id="an-alert-for-an-unknown-issuer",
            ),
            pytest.param(
                wrapped(tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")),
                CredentialsRefusedError,
                "Nexi ended the handshake (TLSV13_ALERT_CERTIFICATE_REQUIRED)",
                id="an-alert-for-no-certificate",
            ),
            pytest.param(
                wrapped(tls_error("TLSV1_ALERT_INTERNAL_ERROR")),
                NexiUnavailableError,
                "failed",
                id="an-alert-about-nexi-itself",
            ),
            pytest.param(requests.ConnectTimeout(), NexiTimeoutError, "got no answer in time", id="connect-timeout"),
            pytest.param(requests.ReadTimeout(), NexiTimeoutError, "got no answer in time", id="read-timeout"),
            pytest.param(wrapped(TimeoutError()), NexiTimeoutError, "got no answer in time", id="timeout-of-a-socket"),
            pytest.param(
                wrapped(ConnectionRefusedError(111, "Connection refused")),
                NexiUnavailableError,
                "failed (Connection refused)",
                id="refused",
            ),
            pytest.param(
                wrapped(ConnectionResetError(104, "Connection reset by peer")),
                NexiUnavailableError,
                "failed (Connection reset by peer)",
                id="reset",
            ),
            pytest.param(
                wrapped(OSError(-2, "Name or service not known")),
                NexiUnavailableError,
                "failed (Name or service not known)",
                id="no-such-name",
            ),
            pytest.param(
                wrapped(tls_error("UNEXPECTED_EOF_WHILE_READING", ssl.SSLEOFError)),
                NexiUnavailableError,
                "failed ([SSL: UNEXPECTED_EOF_WHILE_READING])",
                id="ended-without-an-alert",
            ),
            pytest.param(ProtocolError("broken"), NexiUnavailableError, "failed (ProtocolError)", id="broken-protocol"),
        ],
    )
    def test_each_becomes_ours(
        self,
        failing: Callable[[Exception], SoftposError],
        failure: Exception,
        error: type[SoftposError],
        found: str,
    ) -> None:
        raised = failing(failure)
        assert type(raised) is error
        assert found in str(raised)
        assert URL in str(raised)

    def test_an_alert_names_the_certificate_that_was_shown(
        self, failing: Callable[[Exception], SoftposError], certificate: Certificate
    ) -> None:
        """Nexi's contact asks for exactly these."""
        raised = str(failing(wrapped(tls_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"))))
        assert certificate.subject in raised
        assert certificate.thumbprint in raised
        assert f"{certificate.not_after:%Y-%m-%d}" in raised

    @pytest.mark.parametrize(
        "alert",
        [
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_DECRYPT_ERROR",
        ],
    )
    def test_an_alert_about_what_we_have_shown_is_ours_to_mend(
        self, failing: Callable[[Exception], SoftposError], alert: str
    ) -> None:
        assert isinstance(failing(wrapped(tls_error(alert))), CredentialsRefusedError)

    def test_nothing_is_sent_after_the_deadline(self, certificate: Certificate, bundle: str) -> None:
        session = MutualTlsSession(certificate, bundle)
        unplugged = Unplugged(ConnectionError())
        session._adapter = unplugged  # type: ignore[assignment]  # a fake
        clock = Clock(1000.0)
        deadline = Deadline(1.0, clock)
        clock.now += 1.0
        with pytest.raises(OutOfTimeError, match="no time left for GET"):
            session.send("GET", URL, deadline)
        assert unplugged.sent == []


def test_an_answer_prints_its_status_alone() -> None:
    answer = nexi_session.Answer(200, {"Set-Cookie": "s3cr3t"}, b'{"access_token":"s3cr3t"}')
    assert repr(answer) == "Answer(status=200)"
