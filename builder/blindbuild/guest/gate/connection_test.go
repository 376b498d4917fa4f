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

func TestBodiesAreBoundedAndTheSlowestMakesRoom(t *testing.T) {
	table := newTable(2)
	var holders []*connection
	for range 3 {
		c := testConnection(t)
		table.add(c)
		holders = append(holders, c)
	}
	holders[0].waitingSince = time.Now().Add(-time.Minute)
	if !table.claimBody(holders[0]) || !table.claimBody(holders[1]) || !table.claimBody(holders[2]) {
		t.Fatal("no room")
	}
	if !isClosed(holders[0]) || isClosed(holders[1]) {
		t.Error("another connection was closed")
	}
	holders[1].waitingSince, holders[2].waitingSince = time.Time{}, time.Time{}
	fourth := testConnection(t)
	table.add(fourth)
	if table.claimBody(fourth) {
		t.Error("there was room although the gate works for both holders")
	}
	table.remove(holders[1])
	if !table.claimBody(fourth) {
		t.Error("there is room again")
	}
}
