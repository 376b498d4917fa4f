"""Which TPM commands a machine that only boots and attests has a use for.

Source: TPM 2.0 Library Part 2, 6.5.2 (TPM_CC); seen from OVMF 2025.02, Linux 6.12 and the gate.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES: Mapping[int, str] = {
    0x0000011F: "TPM2_NV_UndefineSpaceSpecial",
    0x00000120: "TPM2_EvictControl",
    0x00000121: "TPM2_HierarchyControl",
    0x00000122: "TPM2_NV_UndefineSpace",
    0x00000126: "TPM2_Clear",
    0x00000129: "TPM2_HierarchyChangeAuth",
    0x0000012A: "TPM2_NV_DefineSpace",
    0x00000131: "TPM2_CreatePrimary",
    0x00000134: "TPM2_NV_Increment",
    0x00000135: "TPM2_NV_SetBits",
    0x00000136: "TPM2_NV_Extend",
    0x00000137: "TPM2_NV_Write",
    0x00000138: "TPM2_NV_WriteLock",
    0x0000013C: "TPM2_PCR_Event",
    0x0000013D: "TPM2_PCR_Reset",
    0x00000143: "TPM2_SelfTest",
    0x00000144: "TPM2_Startup",
    0x00000145: "TPM2_Shutdown",
    0x00000147: "TPM2_ActivateCredential",
    0x0000014E: "TPM2_NV_Read",
    0x00000151: "TPM2_PolicySecret",
    0x00000153: "TPM2_Create",
    0x00000155: "TPM2_HMAC",
    0x00000157: "TPM2_Load",
    0x00000158: "TPM2_Quote",
    0x0000015D: "TPM2_Sign",
    0x00000161: "TPM2_ContextLoad",
    0x00000162: "TPM2_ContextSave",
    0x00000165: "TPM2_FlushContext",
    0x00000169: "TPM2_NV_ReadPublic",
    0x00000173: "TPM2_ReadPublic",
    0x00000176: "TPM2_StartAuthSession",
    0x0000017A: "TPM2_GetCapability",
    0x0000017B: "TPM2_GetRandom",
    0x0000017D: "TPM2_Hash",
    0x0000017E: "TPM2_PCR_Read",
    0x00000181: "TPM2_ReadClock",
    0x00000182: "TPM2_PCR_Extend",
}

# The kernel's resource manager swaps keys and sessions; the rest reads, or signs what was measured.
SERVING_COMMANDS = frozenset(
    {
        0x00000131,  # TPM2_CreatePrimary: the attestation key is made anew from the TPM's own seed
        0x00000147,  # TPM2_ActivateCredential
        0x0000014E,  # TPM2_NV_Read: certificates, and the template of a certified key
        0x00000151,  # TPM2_PolicySecret: what ActivateCredential asks for
        0x00000158,  # TPM2_Quote
        0x00000161,  # TPM2_ContextLoad
        0x00000162,  # TPM2_ContextSave
        0x00000165,  # TPM2_FlushContext
        0x00000169,  # TPM2_NV_ReadPublic
        0x00000173,  # TPM2_ReadPublic: a certified key that the TPM keeps
        0x00000176,  # TPM2_StartAuthSession
        0x0000017A,  # TPM2_GetCapability
        0x0000017B,  # TPM2_GetRandom
        0x0000017E,  # TPM2_PCR_Read
        0x00000145,  # TPM2_Shutdown: the last one, where the machine powers itself off
    }
)
# Firmware and stub measure, and the firmware throws away the platform's password.
BOOT_COMMANDS = SERVING_COMMANDS | {
    0x00000129,  # TPM2_HierarchyChangeAuth
    0x00000143,  # TPM2_SelfTest
    0x00000144,  # TPM2_Startup
    0x00000181,  # TPM2_ReadClock
    0x00000182,  # TPM2_PCR_Extend
}


def name_command(code: int) -> str:
    """Return the specification's name of a command, or its number."""
    return _NAMES.get(code, f"command {code:#010x}")
