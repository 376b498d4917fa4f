// The gate ends TLS, answers with evidence, and hands every request to a fresh process of the workload. It writes nothing
// anywhere but into its connections: when it cannot go on it exits, and init then powers the machine off.
//
// Contracts: docs/spec/guest-abi.md and docs/spec/evidence.md.
package main

import (
	"crypto/sha256"
	"os"
	"runtime"
	"runtime/debug"
)

const (
	configPath   = "gate.json" // in the working directory, which is the gate's root
	filterPath   = "filter"    // beside it
	baseMemory   = 48 << 20    // the runtime, the event log, all connections, and their evidence
	bodyHandling = 5           // a body is at most this often in memory: itself, its answer, padded, sealed, and garbage
)

// exitOn ends the program with a status of its own for each thing that can fail; only a test ever sees it.
func exitOn(err error, status int) {
	if err != nil {
		os.Exit(status)
	}
}

func main() {
	text, err := os.ReadFile(configPath)
	exitOn(err, 10)
	config, err := parseConfig(text)
	exitOn(err, 11)
	// The garbage collector shall work harder before the machine runs out of memory.
	largest := int64(max(config.maxRequestBytes, config.maxResponseBytes))
	debug.SetMemoryLimit(baseMemory + bodyHandling*largest*int64(config.concurrency+spareBodies))

	listener, err := openListener(listenerDescriptor)
	exitOn(err, 13)
	device, err := openDevice(tpmDescriptor)
	exitOn(err, 14)
	eventLog, err := readEventLog(eventLogDescriptor)
	exitOn(err, 15)
	launcher, err := openLauncher(launcherDescriptor, config)
	exitOn(err, 16)

	if !leaky {
		exitOn(confine(), 20)
	}

	tlsConfig, keyDigest, err := makeTLSConfig()
	exitOn(err, 21)
	source := &evidenceSource{
		attester: newAttester(device), profile: config.profile, keyDigest: keyDigest, eventLog: encode(eventLog),
	}
	if config.profile == sealedProfile {
		source.sealer, err = newSealer()
		exitOn(err, 22)
		source.keyDigest = sha256.Sum256(source.sealer.spki)
	}
	s := &server{
		routes: config.routes, maxRequestBytes: config.maxRequestBytes, tls: tlsConfig, evidence: source,
		launcher: launcher, table: newTable(capacities(config.concurrency, len(source.eventLog)), runtime.GOMAXPROCS(0)),
	}
	// The first client need not wait for the keys. An error is not lost: the next request meets it again.
	go func() { _, _ = s.learnEndorsement() }()
	exitOn(s.serve(listener), 31)
}
