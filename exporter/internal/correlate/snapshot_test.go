package correlate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func snapshotOf(t interface{ Fatal(...any) }, e *Engine) []byte {
	var b bytes.Buffer
	if err := e.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reloaded(t interface{ Fatal(...any) }, e *Engine, o Options) *Engine {
	loaded, err := Load(bytes.NewReader(snapshotOf(t, e)), o)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// An engine that was saved and loaded between any two lines says what one that
// went on says, and equal states have equal bytes.
func TestReloadDoesNotMatter(t *testing.T) {
	events := story(t)
	whole := NewEngine(Options{Events: true})
	for i := range events {
		whole.Add(events[i].host, &events[i].ev)
	}
	want := tellAll(whole)
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Events: true}
		e, through := NewEngine(o), NewEngine(o)
		var fs []Finding
		for rest := events; len(rest) > 0; {
			n := min(rapid.IntRange(1, 600).Draw(t, "until"), len(rest))
			for i := range rest[:n] {
				e.Add(rest[i].host, &rest[i].ev)
				through.Add(rest[i].host, &rest[i].ev)
			}
			rest = rest[n:]
			fs = append(fs, e.Findings()...)
			through.Findings()
			e = reloaded(t, e, o)
			if a, b := snapshotOf(t, e), snapshotOf(t, through); !bytes.Equal(a, b) {
				t.Fatalf("after %d lines the states differ", len(events)-len(rest))
			}
		}
		e.Finish(e.Newest())
		fs = append(fs, e.Findings()...)
		said, findings := tell(fs)
		if diff := cmp.Diff(want, said+findings+fmt.Sprintf("%+v", e.Report(true))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// All recordings, saved and loaded after every 37th line.
func TestReloadOfRecordings(t *testing.T) {
	eachRecording(t, func(name, host string, files []string, zone *time.Location, dir string) {
		lines := read(readLog(t, dir, host, files), zone)
		o := Options{Events: true}
		whole, e := NewEngine(o), NewEngine(o)
		var fs []Finding
		for i := range lines {
			whole.Add(host, &lines[i].ev)
			e.Add(host, &lines[i].ev)
			if i%37 == 0 {
				fs = append(fs, e.Findings()...)
				e = reloaded(t, e, o)
			}
		}
		e.Finish(e.Newest())
		said, findings := tell(append(fs, e.Findings()...))
		if diff := cmp.Diff(tellAll(whole), said+findings+fmt.Sprintf("%+v", e.Report(true))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	})
}

func TestSnapshotRefusesWhatItWouldLose(t *testing.T) {
	e := NewEngine(Options{Events: true})
	events := story(t)
	for i := range 200 {
		e.Add(events[i].host, &events[i].ev)
	}
	if err := e.Snapshot(io.Discard); err == nil {
		t.Error("findings not yet taken would be lost")
	}
}

// A snapshot that was cut or changed anywhere is refused, and nothing panics.
func TestLoadOfDamage(t *testing.T) {
	e := NewEngine(Options{})
	events := story(t)
	for i := range events[:1500] {
		e.Add(events[i].host, &events[i].ev)
	}
	e.Findings()
	whole := snapshotOf(t, e)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(whole)
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		if rapid.Bool().Draw(t, "cut") {
			b = b[:at]
		} else {
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		}
		if _, err := Load(bytes.NewReader(b), Options{}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("damage at %d of %d: %v", at, len(whole), err)
		}
	})
	if _, err := Load(bytes.NewReader(nil), Options{}); !errors.Is(err, ErrDamaged) {
		t.Error("nothing", err)
	}
	failing := errors.New("disk full")
	if _, err := Load(io.MultiReader(bytes.NewReader(whole[:50]), iotestErr{failing}), Options{}); !errors.Is(err, failing) {
		t.Error("a reader's own error", err)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func BenchmarkSnapshot(b *testing.B) {
	e, _ := crowded(million)
	e.Findings()
	var buf bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := e.Snapshot(&buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(buf.Len())/float64(e.Keys()), "B/key")
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			if _, err := Load(bytes.NewReader(buf.Bytes()), Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
