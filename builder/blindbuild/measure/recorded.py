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
# and 2022.11 another one. The builds with Secure Boot were booted with `smm=on` and one processor, with and
# without keys; their values are the replay of the extends in swtpm's transcript, which for the other builds
# gave what TPM2_PCR_Read had given. With two processors both have other values.
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
    RecordedFirmware(
        code="d50189a486d22af418198226a3a5bcb6ddac775590f6a808bd629474ee034d62",
        package="Debian ovmf 2022.11-6+deb12u2, OVMF_CODE_4M.secboot.fd",
        platform="qemu-q35-ovmf-2022.11-secboot",
        machine="q35 with SMM and one processor",
        values=(
            RecordedValue(
                memory_mib=(128,),
                sha256="584f3c9968f755e625932e67189bc42f0123e72fa5ce8866e15b7de4525204c6",
                sha384="9201781727922e1288a46c3424bc5e997b80e0363b471b45b9ad994fbd3082741b6f209f5f2b47d0270ca720aedb99d3",
                sha512="898dcac247ca752ec6b6507fc2f1538e8e372303c2942d1193bf6505d7d4ce55"
                "cd75f29725256c6922fc0890307ee7fa1dc4f9b15aaa386692e64d1cfce100fd",
            ),
            RecordedValue(
                memory_mib=(192,),
                sha256="96baa7bd0c69f389a3720afaf12310c9e96887eee90305c561d1f3f0a8a977d5",
                sha384="972e8f3325e11d4819b4bbc710b1fc65e0ab655870f749e4ffde8c149e5900adb7577cd86a581cb2da49c31eda8f77cd",
                sha512="71bead10c3087df8ed55f721404082a8dbd7bc2d1779fbf40e550b9ad3d2c404"
                "eba9d264a0b1a78b51be820ae11a707781af141079a60b6ab2dfae7f81ff06be",
            ),
            RecordedValue(
                memory_mib=(256,),
                sha256="355fb614efd6b07f88cc045e26eba4e3e3ee2dd26793fa787bd254143dc0c902",
                sha384="792fda7e43ecb490719ac68b09acc706a8aba1c8ce7d8ac4bac5ba0ae3cf4bb8a5f092d3a7d1754a664d45033c216779",
                sha512="6ffbfccee1dd3895856215500dc3fe6f970b64432b369463ad60f7b40812bdd3"
                "513daad32258055d4eeb8207b7a89ef7c94546b32d7a8d9f2d7ad6a75c677d42",
            ),
            RecordedValue(
                memory_mib=(384,),
                sha256="016fd910742f9c8a16fb2beaf3d6cbc125112096dbffa2cf9411d89c1e7f825f",
                sha384="918d0721eb9d96dbe62e180be38c987c7ae387c2b115c744c1132a1b4a646232010ac83d6b9e137fe314fe21f0541fbd",
                sha512="212f1a81f84e8631c9a7fdd93eaa18bbff729fa4b3537d153dadce973707438a"
                "d5f3b995ab448549a30fef84c676e7a4962932fb398bdd9ffe0f6c77325d141e",
            ),
            RecordedValue(
                memory_mib=(512,),
                sha256="3d897a7c534d643c645fda0d1b4bae039a712e1ccef23fe3998cf611b3077451",
                sha384="bfc58724faf16f88908728e5eca4fae9b2717a3ddbf8ab26d308881da13e3aab048d735d2589be85288894bf710aeb1f",
                sha512="104f70e458c53bccae4c2e86bece362d78f20ef43f23d914def64a5cc1acaba2"
                "1b7325a758bc2b1d3375cd52b940c7740fa166b0c27712dd8eeca75a2fc31407",
            ),
            RecordedValue(
                memory_mib=(768,),
                sha256="e91853b3f27c1cf7641d6606ad120d2aa2733bf9a266c5664646bad637f33b35",
                sha384="18f7a1e093caf3598269b9f8040e0b39a94e585b1ae2dd3b006bf5058ac1f175a948d1051bc1c6e37c5e44921c02abd3",
                sha512="6898e99293126b1989edb0a7bee178a7354067086ef12bc0af50012391163e9e"
                "b723872d8d12eafbdde77e15a10f40df511fbbdf75b1f8b2ffb4533bfc3187f1",
            ),
            RecordedValue(
                memory_mib=(1024,),
                sha256="87ed0d849299ff67de70a6da0449c93b8aa52ab1eef86bfa5b7bd471e3613e63",
                sha384="fb4f10115a0bc2fb974ded0b821ad4e8f61051148026071e4f40ebacad05036bfbe5f022efa138b6949496c7e8551b1a",
                sha512="140dc2b4e70a78c6144f2b533300ed094295bcc305497f1de8778833d9377738"
                "da6f398f4806b72c2b672593293dc776419eddadbfaf8b06a21a5b4113c07bd1",
            ),
            RecordedValue(
                memory_mib=(1536,),
                sha256="ab660987e5cc1785f804c44ba132257ddfabda26598f6a8891956ccf88febdcc",
                sha384="dd1a57eedffe3b81fd83c33dc8cb9c536cdff90e79924370951ebda2cab471ab5e78ea81e67ab3c1a93401b4d1a6433b",
                sha512="5a46085293ea334f76139b44a90adfcb568d21915e607fd2dd2f7eb2a44c0be4"
                "b018ac7f4f3de45edce0e5bb7e4ff26b02b7f72c606802faaed34b3207be1bd3",
            ),
            RecordedValue(
                memory_mib=(2048, 3072, 4096, 8192),
                sha256="cd04be76578fc0455b52fd7898c62a1180ff0e99ea2e26014d9ac63501327a98",
                sha384="aac9e892ce45ca7f3825da1fcc55e81de7482865c4aaadf65386320723c4ed3b96bc99f30150f72e7ebeead713e0fdeb",
                sha512="d8e2c4bcf827fda7f29a7f6cf9ff388e862b80099f019048322f70bd1847ea09"
                "16a60fd58049c2f0b79b3f12cd065a60233666c6dca30b7ac09ea8ae22c4fe77",
            ),
        ),
    ),
    RecordedFirmware(
        code="1a46295574430cfb7f825ee3e4dc64b052acbef08e310377ed7c64cb757a9dc1",
        package="Debian ovmf 2025.02-8+deb13u1, OVMF_CODE_4M.secboot.fd",
        platform="qemu-q35-ovmf-2025.02-secboot",
        machine="q35 with SMM and one processor",
        values=(
            RecordedValue(
                memory_mib=(128,),
                sha256="fd2dcfe937027a4916c7a0fd49eed5eb1abbe654529dabc4101be2c438e88d69",
                sha384="b6b74e0a22d53788a948d0744f08b1583e1af183c76d862b25c29e1ad86d563eacd1bb1093219a45fafa9294106d7c04",
                sha512="d825f5ba77cfc3481195d3d0b447c40102a28d047941835bc28a93714b34a13b"
                "c822f99789c1b97e76c2bfb0fabc47411405c9dffb39bfbae0b8adde71521039",
            ),
            RecordedValue(
                memory_mib=(192,),
                sha256="7ac65d88a8109a5ca219e071c0e3b4e340ef1bfd930fb6e9ac76ccbd3a503ee5",
                sha384="55a03a50a99e9a8b26384f846538e58a8be4318a9b86bbb755c4914971b19e820898333d2e4ef69fa23e7c840204483e",
                sha512="c51e5a386dfbf6e598d5e174c1a9aa467aeba0eea277ff342b78ba4db4db03b7"
                "beefef9063ba390800bb64c487545b73715a1695d47d5fec8a99f81a62d306a3",
            ),
            RecordedValue(
                memory_mib=(256,),
                sha256="913824166ed0706d9a813934cdbf39e1db9cb12e9f610351aff7f8498288d60c",
                sha384="8fcd199118588f31630738237010e2d813a24ba98a08c7f89660613193e89bcb15e410c5bd04d7bc01145567b038f175",
                sha512="e6f788b827641cea39e8ae17bae449ab2c8593f7b2c23949ea2f6d51d4e4e1b4"
                "ce477f2927280e7d1ca47c4bc4a15225d9233e9cfff822cf732631d20e0cdd07",
            ),
            RecordedValue(
                memory_mib=(384,),
                sha256="62c2bd7374274bf2615fa28ccda7ec4ce149085ef8c1323ee75e866cc7a410d5",
                sha384="65aa7e9afefe37251cbe07a3658c036df14b92a560131f2bc791b3b4226febeff1fdb549215329ba13fdf343bfa98041",
                sha512="e0f54602e6dfc80511e8aac1fc9bbc786ef696c587e157cd790108ec16bcd677"
                "17673cd3997c4c87a222216bfc41f3df6b1b905b4faccae1441dbd86db037d0b",
            ),
            RecordedValue(
                memory_mib=(512,),
                sha256="bc7535d4f116ca11b6d9f4244e7dd233313bbaa04ca1cd8f60cda10f7c6967a5",
                sha384="10f7613797ffa93496e8d61ec7515d680eb655bbac9c6c77f631c6c1ab93e1c6a1a88c8a84effd5119385e190aa2be05",
                sha512="68e6f20e837992daa489ba0bd4989080580652decd5569f23355f99d1ed0094a"
                "9ec6339ebfc151ef3cc5842b5731447c2e17958d3bf8cb0e9b4e450a5efc34bf",
            ),
            RecordedValue(
                memory_mib=(768,),
                sha256="5637fabda4afa4e6405f84961723b12e38b7bd688f4feef7d27f7ae8d65b89cb",
                sha384="1b88a736daa5987584effb75a6237d99c2f022056d7a2d7890f7e6be6779c12dff1db54b32222091ab44e6278d385c5b",
                sha512="f884ddbe476e28255a5d22bb8b978c4bf841e6964cb483db55dd3accc1a2480c"
                "5a0d48afc0227dfc11dae75883fa901a51cbfdf2d6420c1aa5d8884e3072bfb2",
            ),
            RecordedValue(
                memory_mib=(1024,),
                sha256="52edffa168d04926417e8f830034632a22dd3391ef9b57b629c14cab474e453b",
                sha384="9f46acf0677b954c14580dc045a3cba507f7fec45d72cb3b72fda21f8921a159eecff6e534ad3b5028a6cf386e8fce12",
                sha512="b04d37581c4238dc0829909a0153e4c0e9704bf53d45326334fa50c3c8fdaa60"
                "a635371e72f80f72ca9ba084bfc9e142db1dd0c17fb2b4e892d53cf5d0d556b9",
            ),
            RecordedValue(
                memory_mib=(1536,),
                sha256="0d833f14ba6f6cc65e69c3917256a956610e727a88595ed395f5c69589e03cbc",
                sha384="7d08a41ed6edbe55a8f471e87c278bada95dc24acf694a55ec5ea622ab9ded03379c0d8fe5b189033773961a622a3cc8",
                sha512="b7b47f911d0155462bab1f29597a4bac04945d7d24cc83799ca54cb29217f27a"
                "53a25d82b48228b239254b61f2ba8e21a476010048537c3781f469aac7036c29",
            ),
            RecordedValue(
                memory_mib=(2048,),
                sha256="66eac45b3224637c040c69b31ecd346d1d32ca8b993c360e601b142b74d68968",
                sha384="d06b3de174b67374dbefc9d27299f5a3c91ca987402bcb232d8c78f802ec1447dd1fb63d8d6a22aec72e2f814ccbb75b",
                sha512="5708b2e54645ae3bb1da57be450961a4fe545c4086a98224413200560fd00d19"
                "b9c32782de646fcabf0eb01ecd20f93fe272a3c3cfbbfa1fe54e331c22e60013",
            ),
            RecordedValue(
                memory_mib=(3072, 4096, 8192),
                sha256="03bd85f02db5232abc51c96d054531f2ed1de0b4131a4674b2015723952f3d75",
                sha384="f02a519bc065115f028dabf48a931940ddfd843cc9c48a0e82625aa63ae20363b49ea8f7f809d3b3a7c5b777ef63a412",
                sha512="5f560b722986266575c24abcd614e6267443567c085a0a956fdf9c0de1f245f1"
                "7e3bcfc3ad7240ab27dbd98bd898aebd52feabeffecf3f1ae6b1b687ae4ea7b1",
            ),
        ),
    ),
)


def classify_pcr00(
    firmware: Digest | None, algorithm: HashAlgorithm, *, platform: Platform
) -> OneOf | Unconstrained:
    """Return the values of PCR 0 that were recorded for this firmware, or say that there are none.

    Args:
        firmware: SHA-256 of the code flash file, None if it was not given.
        algorithm: the bank.
        platform: the platform that is predicted.

    Raises:
        MeasureError: the firmware is known to be another platform's, so that PCR 5 and 7 would be wrong.
    """
    if firmware is None:
        return Unconstrained("the firmware's code, whose file was not given")
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
