package main

import (
	"os"
	"testing"
	"time"
)

// testConnection is the reading end of a pipe.
func testConnection(t *testing.T) *connection {
	t.Helper()
	end, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = end.Close(); _ = other.Close() })
	return &connection{File: end}
}

func isClosed(c *connection) bool { return c.SetDeadline(time.Time{}) != nil }

func fill(t *testing.T, table *table) []*connection {
	t.Helper()
	var all []*connection
	start := time.Now().Add(-time.Hour)
	for i := range maxConnections {
		c := testConnection(t)
		if !table.add(c) {
			t.Fatal("no room")
		}
		c.waitingSince = start.Add(time.Duration(i) * time.Second)
		all = append(all, c)
	}
	return all
}

func TestTheConnectionThatWaitsLongestMakesRoom(t *testing.T) {
	table := newTable(2)
	all := fill(t, table)
	all[0].attested = true            // it spoke: it stays as long as there are others
	all[1].waitingSince = time.Time{} // the gate works for it
	if !table.add(testConnection(t)) || !isClosed(all[2]) || isClosed(all[0]) || isClosed(all[1]) || isClosed(all[3]) {
		t.Error("another connection was closed")
	}
	if len(table.open) != maxConnections {
		t.Error(len(table.open))
	}
}

func TestAmongConnectionsWithEvidenceTheLongestGoes(t *testing.T) {
	table := newTable(2)
	all := fill(t, table)
	for _, c := range all {
		c.attested = true
	}
	if !table.add(testConnection(t)) || !isClosed(all[0]) {
		t.Error("another connection was closed")
	}
}

func TestNobodyIsEvictedWhileTheGateWorksForAll(t *testing.T) {
	table := newTable(2)
	all := fill(t, table)
	for _, c := range all {
		c.waitingSince = time.Time{}
	}
	if table.add(testConnection(t)) {
		t.Error("there was room")
	}
}

func TestBurdensAreBoundedAndTheSlowestMakesRoom(t *testing.T) {
	table := newTable(2)
	var all []*connection
	for range 4 {
		c := testConnection(t)
		table.add(c)
		all = append(all, c)
	}
	all[0].waitingSince = time.Now().Add(-time.Minute)
	all[1].waitingSince = time.Now().Add(-time.Second)
	if !table.claim(all[0], upload) || !table.claim(all[1], upload) || !table.claim(all[2], upload) {
		t.Fatal("no room")
	}
	if !isClosed(all[0]) || isClosed(all[1]) {
		t.Error("another connection was closed")
	}
	all[1].waitingSince, all[2].waitingSince = time.Time{}, time.Time{}
	if table.claim(all[3], upload) {
		t.Error("there was room although the gate works for both")
	}
	if !table.claim(all[1], work) || !table.claim(all[3], upload) {
		t.Error("who has uploaded makes room for another upload")
	}
}

func TestWhoHasJustSpokenIsNotEvicted(t *testing.T) {
	table := newTable(1)
	all := fill(t, table)
	for _, c := range all {
		c.waitingSince = time.Now()
	}
	if table.add(testConnection(t)) || !table.claim(all[0], work) || table.claim(all[1], work) {
		t.Error("there was room")
	}
}
