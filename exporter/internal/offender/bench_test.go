package offender

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

const million = 1_000_000

// crowdedBoard is a board of a million ids: most were banned once, one in ten
// several times, on up to 20 of 100 hosts.
func crowdedBoard() (*Board, []string) {
	b := NewBoard(Options{})
	names := make([]string, million)
	for i := range names {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(i)*2654435761)
		names[i] = netip.AddrFrom4(a).String()
		at := day.Add(time.Duration(i%2_592_000) * time.Second)
		b.Failure(hostOf(i), names[i], at)
		ban(b, hostOf(i), names[i], at)
		for k := 0; i%10 == 0 && k < 1+i/10%19; k++ {
			at = at.Add(time.Hour)
			ban(b, hostOf(i+k), names[i], at)
		}
	}
	// Ids of new facts are at hand, as the parser has just read them.
	rand.New(rand.NewPCG(1, 1)).Shuffle(million, func(i, k int) { names[i], names[k] = names[k], names[i] })
	for i := range names {
		names[i] = strings.Clone(names[i])
	}
	runtime.GC()
	return b, names
}

var hostNames = func() (names []Place) {
	for i := range 100 {
		names = append(names, Place{Host: fmt.Sprintf("host-%02d", i), Jail: "sshd"})
	}
	return names
}()

func hostOf(i int) Place { return hostNames[i%len(hostNames)] }

// The top 100 of a million ids: within 200 ms.
func BenchmarkRank(b *testing.B) {
	board, _ := crowdedBoard()
	now := day.Add(31 * 24 * time.Hour)
	for b.Loop() {
		if r := board.Rank(now, 100); len(r.Rows) != 100 || r.Tracked != million {
			b.Fatal(r.Tracked)
		}
	}
}

// An update with a million ids live, as attackers cause them: three failures and
// a ban of an id, then the next of them at random. Within 300 ns each.
func BenchmarkUpdate(b *testing.B) {
	board, names := crowdedBoard()
	at, i := day.Add(31*24*time.Hour), 0
	for b.Loop() {
		i++
		at = at.Add(time.Millisecond)
		id, p := names[i/4%million], hostOf(i/4)
		if i%4 == 3 {
			ban(board, p, id, at)
		} else {
			board.Failure(p, id, at)
		}
	}
}

// The worst of cases: each update is of another id, at random, none of which is
// in the processor's caches.
func BenchmarkUpdateCold(b *testing.B) {
	board, names := crowdedBoard()
	at, i := day.Add(31*24*time.Hour), 0
	for b.Loop() {
		i++
		at = at.Add(time.Millisecond)
		board.Failure(hostOf(i), names[i%million], at)
	}
}

func BenchmarkNetworks(b *testing.B) {
	board, _ := crowdedBoard()
	now := day.Add(31 * 24 * time.Hour)
	for b.Loop() {
		board.Networks(now, 100)
	}
}

func BenchmarkCampaigns(b *testing.B) {
	board, _ := crowdedBoard()
	now := day.Add(31 * 24 * time.Hour)
	for b.Loop() {
		board.Campaigns(now, 100)
	}
}

// A million ids written and read: within 3 s each.
func BenchmarkSnapshot(b *testing.B) {
	board, _ := crowdedBoard()
	var out bytes.Buffer
	for b.Loop() {
		out.Reset()
		if err := board.Snapshot(&out); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(out.Len())/million, "B/id")
}

func BenchmarkLoad(b *testing.B) {
	board, _ := crowdedBoard()
	var out bytes.Buffer
	if err := board.Snapshot(&out); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Load(bytes.NewReader(out.Bytes()), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// A copy to read from: how long a board is kept from taking facts.
func BenchmarkFreeze(b *testing.B) {
	board, _ := crowdedBoard()
	for b.Loop() {
		board.Freeze()
	}
}
