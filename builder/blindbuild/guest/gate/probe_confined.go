//go:build probe && !unconfined

package main

import "syscall"

const defaultAction = retErrno | uint32(syscall.EPERM)
