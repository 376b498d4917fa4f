//go:build probe && unconfined

package main

const defaultAction = retAllow
