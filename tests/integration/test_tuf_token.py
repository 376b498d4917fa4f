"""A token that signs TUF metadata: its ECDSA signatures are those that TUF, and not only DSSE, asks for."""

from __future__ import annotations

from pathlib import Path

from blindbuild.client.tuf import TufRepository
from blindbuild.manifest import parse_trust
from blindbuild.publish import TrustContent, generate_key, make_trust
from tests.cli.test_image_directory import write_image
from tests.fakes.world import authority
from tests.integration.test_release_keys import RIGHT, URI, play
from tests.integration.test_release_keys import token as token  # the fixture


def test_a_key_in_a_token_signs_every_role_and_a_client_follows(
    tmp_path: Path, token: dict[str, str]
) -> None:
    repository, key = tmp_path / "repo", tmp_path / "token.key"
    image = write_image(tmp_path / "image")
    online = generate_key()
    (tmp_path / "online.key").write_bytes(online.to_pem())
    (tmp_path / "online.pub").write_bytes(online.public.spki)
    public = f"{key}.pub"
    roles = ("--root", public, "--release", public, "--online", tmp_path / "online.pub")
    said = play(
        token,
        (("keygen", "--token", URI, "-o", key), RIGHT),
        (("publish", "init", repository, *roles, "--key", key), RIGHT),
        (("publish", "refresh", repository, "--key", tmp_path / "online.key"), {}),
        (("sign", image, "--key", key), RIGHT),
        (("publish", "add", repository, image, "--key", key, "--key", tmp_path / "online.key"), RIGHT),
    )
    assert [line[0] for line in said] == ["0"] * 5, said
    assert said[-1].rstrip().endswith("published")
    trust = make_trust(
        TrustContent(
            product="hello",
            tuf_root=(repository / "metadata" / "1.root.json").read_bytes(),
            tpm_roots=[authority().root_pem],
        )
    )
    followed = TufRepository(parse_trust(trust), str(repository)).follow()
    assert followed.published.envelope == (image / "manifest.dsse.json").read_bytes()
    # P-256 in DER, as python-tuf reads it, and as r and s in the manifest
    assert b'"ecdsa-sha2-nistp256"' in (repository / "metadata" / "1.root.json").read_bytes()
