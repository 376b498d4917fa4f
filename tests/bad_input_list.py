"""What the test-suite must refuse, by number: the bad inputs that a verifier of this kind has to expect."""

from __future__ import annotations

_LISTED = """
# Envelope and statement
1 no signatures
2 one signature less than the threshold
3 the same signature twice
4 one key under two key ids
5 two signatures of one key, its key id in upper and lower case
6 an unknown key id with a trusted key's valid signature (to be accepted)
7 a known key id, signed by another key
8 a valid signature over the payload without its pre-authentication encoding
9 payloadType changed after signing
10 payloadType with non-ASCII characters
11 payloadType `application/json`
12 base64 in the URL-safe alphabet (to be accepted)
13 base64 with a newline or a space
14 base64 with padding bits that are not zero
15 base64 without its padding
16 a payload above the limit
17 a duplicate JSON key in the envelope
18 a duplicate JSON key in the payload
19 NaN or Infinity
20 the float `42.0` as sequence
21 the integer 2^53
22 a negative sequence
23 a boolean for an integer
24 a byte order mark
25 invalid UTF-8
26 an escaped lone surrogate
27 nesting 100,000 deep
28 bytes after the JSON value
29 valid JSON that is not in RFC 8785 form
30 another `_type` (v0.1)
31 another predicateType, or its major version 2
32 an unknown field at the top
33 an unknown field in the predicate
34 an empty subject
35 a subject's digest in upper case, of a wrong length, or only MD5
36 a PCR named "24", "04", "-1" or "4 "
37 a PCR that is not classified
38 a PCR classified twice
39 a value of 31 or 33 bytes
40 a bank `sha1`
41 `oneOf` of an empty list
42 validUntil before validFrom
43 a time without Z, with an offset, or in a leap second
44 an ECDSA signature with extra bytes in its DER, negative r, r = 0, or s >= n
45 Ed25519 with S >= L, or a key of small order
46 an RSA key of 1024 bits, or with e = 1
# TUF
47 an expired timestamp
48 an expired snapshot, targets or root
49 a timestamp version that went back
50 a snapshot version that went back
51 targets removed from the snapshot
52 root N+2 without N+1
53 a root signed only by the new or only by the old keys
54 a threshold met by duplicate signatures
55 a hash that does not match
56 a file that is too long, or has no end
57 another role's type in a file
58 path traversal in the name of a target
59 files of two repositories mixed and matched
60 a version fast-forwarded to 2^31
61 a fork: one version, two contents
62 a revoked manifest that is still in the cache
63 a clock set back before the last time seen
# Transparency log
64 a checkpoint of two lines
65 a size "007", "+7", "7 ", "7_0", -7 or 2^64
66 a root of 31 or 33 bytes
67 another origin, the right key
68 the right name, another key id
69 the same key id, a bad signature
70 a bad signature of a known key beside a good one
71 a hyphen for the em dash
72 CRLF
73 a control character
74 17 signatures
75 a text with several empty lines (it ends at the last one)
76 a log key (type 0x01) as a witness
77 a cosignature's time in the future, too old, 0, or above 2^63-1
78 one witness key under two names
79 a quorum line that is missing, doubled, cyclic, or asks for more than there are
80 a proof too short, too long, or with an index outside the tree
81 an inclusion proof of another leaf
82 an inner node as a leaf
83 trees of no and of one leaf
84 a consistency proof that goes back, or of equal sizes and different roots
85 a tile of 255 hashes as a full one; a partial tile of another width
86 an entry bundle whose lengths overrun it
87 the right leaf of another product
88 two checkpoints of one size with two roots
# Quote
89 magic 0
90 another attestation: certify, time, creation, NV
91 a nonce that is empty, truncated, zero-padded, or another connection's
92 an empty selection (a bank that is not allocated)
93 the SHA-1 bank
94 a subset of the registers
95 a superset of the registers
96 two banks
97 a value quoted under another register's number (16 as 11)
98 sizeofSelect 0, 2, 4 or 255; 0, 16 or 2^32-1 selections
99 a digest over the values by the bank's hash, not the signature's
100 values swapped between two registers
101 a register value of 0 or 20 bytes
102 a byte after the quote
103 a quote or signature cut at any offset
104 another scheme or hash: RSAPSS for RSASSA, SHA-1, TPM_ALG_NULL, HMAC
105 r with leading zeros or of 33 bytes
106 a resetCount below the one seen before
107 safe = 0
108 TPM firmware below the minimum
# Attestation key
109 a key that is not restricted
110 a key that may decrypt
111 a key that is not fixedTPM
112 a software key with a TPM key's attributes
113 a certificate that is self-signed, of the web PKI, expired, not yet valid, for servers, or of a CA
114 an intermediate without cA, or a path longer than allowed
115 a certificate of another key than the public area's
116 padding in NV that is not zero
117 an EK certificate in place of an AK certificate, and the reverse
118 a MakeCredential answer that is replayed or for another name
119 swtpm's CA without the flag for test TPMs
120 a point off the curve or at infinity
# Event log, channel and resources
121 an event under another type (EV_UNUSED and appended copies)
122 a separator that is missing, doubled or says error; an event after it
123 EV_NO_ACTION that extends; StartupLocality 5; a second Spec ID event
124 digests, sizes and registers that cannot be, a log cut in the middle, a value without events
125 channel: another key or connection, a reflected role, a changed TLS key, redirect, plain http, resumption
126 resources: a gzip bomb, a million events or certificates, recursion, regular expressions that blow up
"""


def _read() -> tuple[dict[int, str], dict[int, str]]:
    titles: dict[int, str] = {}
    sections: dict[int, str] = {}
    for line in _LISTED.strip().splitlines():
        word, _, text = line.partition(" ")
        if word == "#":
            sections[len(titles) + 1] = text
        else:
            titles[int(word)] = text
    return titles, sections


BAD_INPUTS, SECTIONS = _read()
"""What each number is, and by its first number the name of each section."""
