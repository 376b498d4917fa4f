package main

import (
	"os"
	"testing"
	"time"
)

// fakeTable is a table with a clock of its own.
type fakeTable struct {
	*table
	t         *testing.T
	clockTime time.Time
}

func newFakeTable(t *testing.T) *fakeTable {
	f := &fakeTable{t: t, clockTime: time.Unix(1e9, 0)}
	f.table = newTable(capacities(2, 60*kib), 1)
	f.now = func() time.Time { return f.clockTime }
	return f
}

func (f *fakeTable) pass(d time.Duration) { f.clockTime = f.clockTime.Add(d) }

// connect adds the reading end of a pipe, as a connection from an address.
func (f *fakeTable) connect(address byte) *connection {
	f.t.Helper()
	end, other, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = end.Close(); _ = other.Close() })
	c := &connection{File: end, address: [4]byte{127, 0, 0, address}}
	if !f.add(c) {
		f.t.Fatal("no room")
	}
	return c
}

// crowd fills the strangers' places, a millisecond after another.
func (f *fakeTable) crowd(address func(int) byte) (all []*connection) {
	for i := range maxStrangers {
		f.pass(time.Millisecond)
		all = append(all, f.connect(address(i)))
	}
	return all
}

// gone lists which of the connections are closed.
func gone(all []*connection) (numbers []int) {
	for i, c := range all {
		if c.gone != (c.SetDeadline(time.Time{}) != nil) {
			panic("what is gone is closed, and nothing else")
		}
		if c.gone {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

func same(a []int, b ...int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func oneAddress(int) byte { return 1 }

func TestWhoMakesRoomAmongStrangers(t *testing.T) {
	for name, form := range map[string]struct {
		address func(int) byte
		change  func(*fakeTable, []*connection)
		want    int
	}{
		"who came first": {oneAddress, func(*fakeTable, []*connection) {}, 0},
		"and being busy is no help": {oneAddress, func(f *fakeTable, all []*connection) {
			all[0].since, all[0].moved = f.now(), 1e9
		}, 0},
		"nobody for whom the gate works": {oneAddress, func(_ *fakeTable, all []*connection) { all[0].works() }, 1},
		"nobody who keeps the pace of what it has a place for": {oneAddress, func(f *fakeTable, all []*connection) {
			f.enter(all[0], works)
			all[0].transfers(1<<20, time.Hour)
			f.pass(busyPatience + 10*time.Second)
			all[0].progress(10*busyRate + 1)
		}, 1},
		"but who does not": {oneAddress, func(f *fakeTable, all []*connection) {
			f.enter(all[0], works)
			all[0].transfers(1<<20, time.Hour)
			f.pass(busyPatience + 10*time.Second)
			all[0].progress(10*busyRate - 1)
		}, 0},
		"nobody who has evidence": {oneAddress, func(f *fakeTable, all []*connection) {
			f.attest(all[0])
			f.connect(1)
		}, 1},
		"an address with more than a fair share first": {func(i int) byte { return byte(min(i, 191)) }, func(*fakeTable, []*connection) {}, 191},
		"but not one with its share":                   {func(i int) byte { return byte(min(i, 192)) }, func(*fakeTable, []*connection) {}, 0},
	} {
		f := newFakeTable(t)
		all := f.crowd(form.address)
		form.change(f, all)
		f.connect(250)
		if got := gone(all); !same(got, form.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAmongThoseWithEvidenceTheLongestSilenceGoes(t *testing.T) {
	f := newFakeTable(t)
	var all []*connection
	for range maxAttested {
		f.pass(time.Second)
		c := f.connect(1)
		f.attest(c)
		c.waits(time.Hour)
		all = append(all, c)
	}
	all[0].waits(time.Hour)
	all[1].works()
	stranger := f.connect(1)
	if f.attest(stranger); !same(gone(all), 2) || !stranger.attested || stranger.gone {
		t.Error(gone(all), stranger)
	}
	if f.count[true] != maxAttested || f.count[false] != 0 || len(f.open) != maxAttested || len(f.hosts) != 1 {
		t.Error(f.count, len(f.open), len(f.hosts))
	}
}

func TestAnAddressIsForgottenWithItsLastConnection(t *testing.T) {
	f := newFakeTable(t)
	a, b := f.connect(1), f.connect(1)
	f.attest(a)
	for _, c := range []*connection{a, a, b} {
		f.remove(c)
	}
	if len(f.hosts) != 0 || len(f.open) != 0 || f.count[false] != 0 || f.count[true] != 0 {
		t.Error(f.hosts, f.open, f.count)
	}
}

func TestThereIsAlwaysSomebodyWhoCanMakeRoom(t *testing.T) {
	// Everybody in a line, and everybody waiting for one, at the largest concurrency.
	kept := 0
	for _, capacity := range capacities(maxConcurrency, 0) {
		kept += capacity + maxWaiting
	}
	if kept -= maxWaiting + 1; kept >= maxStrangers || kept >= maxAttested { // the TPM's line is inside that of replies
		t.Error(kept)
	}
	f := newFakeTable(t)
	for _, c := range f.crowd(oneAddress) {
		c.works()
	}
	if f.add(&connection{}) {
		t.Error("there was room")
	}
}

func TestWhoWasEvictedTakesNoTurnAndWhoSendsTooMuchNoTime(t *testing.T) {
	f := newFakeTable(t)
	end, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c := &connection{File: end}
	f.add(c)
	for sent := 0; sent < maxHandshakeBytes; {
		if _, err := other.Write(make([]byte, 4*kib)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(make([]byte, 3*kib))
		if err != nil || !c.computing || len(f.turns) != 1 {
			t.Fatal(n, err, c.computing)
		}
		sent += n
	}
	if _, err := c.Read(make([]byte, 1)); err != errRequest || len(f.turns) != 0 {
		t.Error(err)
	}
	c.taken = 0
	c.gone = true
	if _, err := c.Read(make([]byte, 1)); err != os.ErrClosed {
		t.Error(err)
	}
	if c.arrive(); len(f.turns) != 0 {
		t.Error("a turn is lost")
	}
}
