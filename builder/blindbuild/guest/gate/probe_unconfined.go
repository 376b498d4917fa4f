//go:build probe && unconfined && !lethal

package main

const defaultAction = retAllow
