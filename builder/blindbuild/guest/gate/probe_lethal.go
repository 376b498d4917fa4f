//go:build probe && lethal

package main

const defaultAction = retKillProcess // the product's
