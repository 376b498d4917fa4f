//go:build probe && !unconfined && !lethal

package main

import "syscall"

const defaultAction = 0x00050000 | uint32(syscall.EPERM) // SECCOMP_RET_ERRNO
