"""PCR 0 as it was read after real boots.

PCR 0 cannot be computed from the firmware file: the measured copy of the early firmware already holds
values that it wrote itself, and those can differ with the size of the memory and more.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.measure.bank import one_of
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.measure.platforms import Platform


@dataclass(frozen=True, slots=True)
class RecordedValue:
    """One value of PCR 0 in hexadecimal, and the memory sizes in MiB that gave it."""

    memory_mib: tuple[int, ...]
    sha256: str
    sha384: str
    sha512: str

    def digest(self, algorithm: HashAlgorithm) -> Digest | None:
        """Return the value in one bank, None if that bank was not recorded."""
        recorded = {
            HashAlgorithm.SHA256: self.sha256,
            HashAlgorithm.SHA384: self.sha384,
            HashAlgorithm.SHA512: self.sha512,
        }
        text = recorded.get(algorithm)
        return None if text is None else Digest.from_hex(algorithm, text)


@dataclass(frozen=True, slots=True)
class RecordedFirmware:
    """What was recorded of one firmware build.

    Attributes:
        code: SHA-256 of the code flash file, in hexadecimal.
        package: the Debian package and file it is from.
        platform: the identifier of the platform it belongs to.
        machine: what it was booted on.
    """

    code: str
    package: str
    platform: str
    machine: str
    values: tuple[RecordedValue, ...]


# Each value was read with TPM2_PCR_Read from swtpm 0.7.1 after a boot of QEMU 7.2.22, `-machine q35,smm=off`,
# under software emulation with one processor. With 512 MiB it was also the same for the processors qemu64 and
# max, for tpm-crb and tpm-tis, and without a network card; with two processors 2025.02 gave the same value
# and 2022.11 another one.
RECORDED = (
    RecordedFirmware(
        code="624e06de18b4fa535e90db7160d00d3d07d206422b89999bf1e27d920264e4e0",
        package="Debian ovmf 2025.02-8+deb13u1, OVMF_CODE_4M.fd",
        platform="qemu-q35-ovmf-2025.02",
        machine="q35 with one or two processors",
        values=(
            RecordedValue(
                memory_mib=(128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192),
                sha256="0101271704ccc2360ddbb08438d591c23fb8a0a9cb0cebc60cefea7868833f8e",
                sha384="5f6f9472e953d7f49e3ce38e89976e7e5d96fdba53d2b3392870a57f85ace3d2e4574c45b3795fb1810ac689a4f08818",
                sha512="f59285bdf0de91a661853889b72c62ca5d9fb0d0c9b133ebf2cee6518fef4d9e"
                "a1b30833420bf29a0ffc9d97a68a5cdb6f06b83d809c39301609152e7982a7c3",
            ),
        ),
    ),
    RecordedFirmware(
        code="b157d97b1f69729514feb7f201d2cbe4957f23ab77920e361fe9f822ba49ca4c",
        package="Debian ovmf 2022.11-6+deb12u2, OVMF_CODE_4M.fd",
        platform="qemu-q35-ovmf-2022.11",
        machine="q35 with one processor",
        values=(
            RecordedValue(
                memory_mib=(128,),
                sha256="1a2b9c97afb9e155ab4df861a61ccaa99830155e6230487823a46bc3b0146dd1",
                sha384="3bfeae03c75cb91179a562447606157b9c6fbb64705c1fe9468635d3179c072a25614b15400576d8922590a045a1a1fa",
                sha512="fb0e46d1ffb81f3357ecd4a00fab062fa6e12019e30324ca5482b0127718370e"
                "16b5f038708a6d253b90effbd40a39befabcd6fbb4ce14aecfe10cc7fe117ed0",
            ),
            RecordedValue(
                memory_mib=(192,),
                sha256="51de9e8baffe4f27145d7ef95b5b3d8749d684e535311b0149d796e4c951c814",
                sha384="6bbbf2eb55943fee0640f98bd0bba8f52ee7ddebcbef968d1dcf9d07fc93c628369b0c967e340de964b675c7925295a9",
                sha512="8f061f15579e40c18eadaeda99be32264c8600ddfdee29f902dd2d3464dea3f0"
                "26707d9f4f266d7a71c3f7432a96ab06da4b4931158d915540d2fecf387b98a7",
            ),
            RecordedValue(
                memory_mib=(256,),
                sha256="ce729d0e02d46cecb9baa54228e55d1be49de54981fe6485a59bf9b222bcc061",
                sha384="585855a45cd5ff93c828c2e469ec402bd01f01a7567b3716d3a0a698d35469255107501ff0aded67dee978a39d4707ef",
                sha512="a8fe8c0f62d72f557c6ed228a54dbdc274e5ace83781bb6e8264cf60e47a51e9"
                "221b4ed6711d8ec9e96c2cf4a3064aa4a981f511033e7c7a86d83f3c2e387c2b",
            ),
            RecordedValue(
                memory_mib=(384,),
                sha256="d8279ad1f8ff0acfc4215a908d3bea9c32c09e763c621a4e9c97e2a62da6c164",
                sha384="78d87113fa81cd62a69c04844f57f2ccbaef2fda4b1c09945451ba1f6485e275c7eed66c266d206e240ce262fdff50a2",
                sha512="ddef839cfb24a5aeef6f34098192dd3c7144eb719b1dd424e7d1b40221ae02d2"
                "ba9ba849ea3c637550f12d1f3d92d7a344b02ace46722d9845886431aed9ff0d",
            ),
            RecordedValue(
                memory_mib=(512,),
                sha256="177e29c417b6b61c7cf46ed30b4468931f58642527a268b556254e39b941ec6a",
                sha384="f4428d8c085a90327e84ec8a82b582776de009bf0865b0276620545d213a7d97528e6dd8643104a1f64c67fbbd8d5e4f",
                sha512="0b9e6b78fc3feeba239bea5a9e28d1eccefeff3e5c304e2ea4266d863a5276e5"
                "4e94a1c8515eaa3e07b43287a8c88b4330fc4e54407409fc90514e6890474355",
            ),
            RecordedValue(
                memory_mib=(768,),
                sha256="05e9edf27f2cc722a00eee9f2882b8bafc132e3a56b3f60baee42dcdd59538fd",
                sha384="0b2e2f9b9c8e330fc56fd287215f88573a1258b5722534ef850f4723897cb967747cbc1e04ee7ec79eee01075c5889ae",
                sha512="7fed4e97a1b31deb205b2187e12704f86130155603df346a935e1ffa88323995"
                "7218c9ef1d39d0f0b3aa7889eb13c70aefdb061e0e63bcffb32b61180496dbea",
            ),
            RecordedValue(
                memory_mib=(1024,),
                sha256="eaa650ae9b6b9c6d0ef4fab4dda3af9769f23c839ca3c98307a7a84831cbb472",
                sha384="4aabf8cd090a6152abdbffc4b135a1684c804cd5eef25847cc21b4a4676faf90c72aeffa0025ebae68be7b326b1a6fdd",
                sha512="6a973b9cf5d4b8f23c24ba6dafee206c6280d137a5105a497f61493c0bea940d"
                "de5e734ace395312913686d5ceee4e12fbdda4a6a5498795059e31fd10670aad",
            ),
            RecordedValue(
                memory_mib=(1536,),
                sha256="73b6866c28893474cd4b66ccd7c53c27e3177c41525282b0cf018645103719d2",
                sha384="9e72811c3bc422894eac9e1a2c2c259519029d00dd02f91f9fd06a14e30039725ce7fa6c2ce1a5dfc34a5b2a3b0723b8",
                sha512="8a0b2f4662e16d8c7b2be77419e364b1a7264e5e582a6316f25eec68b1eb4011"
                "c209031e9c30542c97d27702c7516467eeef39a62097db4038ae16ba0b446dc7",
            ),
            RecordedValue(
                memory_mib=(2048, 3072, 4096, 8192),
                sha256="c501c20076e9fced2e4b00cef62aa471dad27b6fc9037a3aa99ec41d6feaa6bf",
                sha384="08381a1add4b438a6f0d25628cce1c7593e0c2760ae410535767a33d122362ec308c46b81b2770690627c983f306ee4e",
                sha512="859773ca001487c14991fd1abb3a68fcba515979b03e88ce546914a42e8477c8"
                "107c6385eefd6e2766fddb9bf5cbaace17dd71ae7c944147e228c47998cb0bd2",
            ),
        ),
    ),
)


def classify_pcr00(
    firmware: Digest, algorithm: HashAlgorithm, *, platform: Platform
) -> OneOf | Unconstrained:
    """Return the values of PCR 0 that were recorded for this firmware, or say that there are none.

    Args:
        firmware: SHA-256 of the code flash file.
        algorithm: the bank.
        platform: the platform that is predicted.

    Raises:
        MeasureError: the firmware is known to be another platform's, so that PCR 5 and 7 would be wrong.
    """
    for record in RECORDED:
        if record.code == firmware.hex:
            break
    else:
        return Unconstrained(f"no boot of the firmware with {firmware} was recorded")
    if record.platform != platform.identifier:
        raise MeasureError(
            f"firmware {firmware}: expected platform {record.platform}, got {platform.identifier}",
            hint=f"use --platform {record.platform}",
        )
    values = [
        (digest, value.memory_mib)
        for value in record.values
        if (digest := value.digest(algorithm)) is not None
    ]
    if not values:
        return Unconstrained(f"no {algorithm.value} value of the firmware with {firmware} was recorded")
    sizes = "; ".join(f"{digest.hex[:12]} with {_list(memory)} MiB" for digest, memory in values)
    return one_of(
        (digest for digest, _ in values),
        why=f"read after boots of {record.package} on {record.machine}: {sizes} of memory",
    )


def _list(sizes: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in sizes)
