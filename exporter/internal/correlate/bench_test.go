package correlate

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// million is the number of (host, jail, id) keys that the engine is measured with.
const million = 1_000_000

// crowded gives an engine that holds keys ids, each banned once.
func crowded(keys int) (*Engine, time.Time) {
	e := NewEngine(Options{})
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for host := range 10 {
		for _, ev := range []fail2ban.Event{
			{Kind: fail2ban.ServerStart, Version: "1.1.0", Time: at, PID: 1},
			{Kind: fail2ban.JailCreated, Jail: "sshd", Time: at},
			{Kind: fail2ban.SettingBanTime, BanTime: 7 * 24 * time.Hour, Time: at},
			{Kind: fail2ban.JailStarted, Jail: "sshd", Time: at},
		} {
			e.Add(hostName(host), &ev)
		}
	}
	for i := range keys {
		at = at.Add(10 * time.Millisecond)
		id := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
		for _, kind := range []fail2ban.Kind{fail2ban.Found, fail2ban.Ban} {
			ev := fail2ban.Event{Kind: kind, Jail: "sshd", ID: id, Time: at, FoundAt: at.Truncate(time.Second)}
			e.Add(hostName(i%10), &ev)
		}
	}
	return e, at
}

func hostName(i int) string { return fmt.Sprintf("web-%d", i) }

func BenchmarkAdd(b *testing.B) {
	e, at := crowded(million)
	ids, hosts := make([]string, 4096), make([]string, 4096)
	for i := range ids {
		n := i * 241
		hosts[i] = hostName(n % 10)
		ids[i] = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at = at.Add(time.Millisecond)
		n := i % len(ids)
		ev := fail2ban.Event{Kind: fail2ban.Found, Jail: "sshd", ID: ids[n], Time: at, FoundAt: at.Truncate(time.Second)}
		e.Add(hosts[n], &ev)
		e.Findings()
	}
}

// BenchmarkAddBans takes failures, bans and unbans of ids all over the million.
func BenchmarkAddBans(b *testing.B) {
	e, at := crowded(million)
	e.Findings()
	kinds := []fail2ban.Kind{fail2ban.Unban, fail2ban.Found, fail2ban.Ban}
	ids, hosts := make([]string, 1<<16), make([]string, 10)
	for i := range ids {
		n := i * 40503 % million
		ids[i] = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
	}
	for i := range hosts {
		hosts[i] = hostName(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at = at.Add(10 * time.Millisecond)
		n := i / len(kinds) % len(ids)
		ev := fail2ban.Event{Kind: kinds[i%len(kinds)], Jail: "sshd", ID: ids[n], Time: at, FoundAt: at.Truncate(time.Second)}
		e.Add(hosts[n*40503%million%10], &ev)
		if i%4096 == 0 {
			e.Findings()
		}
	}
}

func BenchmarkKeySize(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		e, _ := crowded(million / 4)
		e.Findings()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(e.Keys()), "B/key")
	}
}

// A million keys must fit: the bars of memory and allocations, which no busy
// machine moves.
func TestKeysAreSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: half a second and 100 MB, not asked for with -short")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e, at := crowded(million / 4)
	e.Findings()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if size := float64(after.HeapAlloc-before.HeapAlloc) / float64(e.Keys()); size > 250 {
		t.Errorf("%.0f bytes of heap a key, more than 250", size)
	}
	ev := fail2ban.Event{Kind: fail2ban.Found, Jail: "sshd", ID: "10.0.0.20", Time: at, FoundAt: at.Truncate(time.Second)}
	if n := testing.AllocsPerRun(1000, func() { e.Add(hostName(0), &ev) }); n > 1 { // the host's name, made here
		t.Errorf("%.0f allocations for a failure of a known id", n)
	}
}
