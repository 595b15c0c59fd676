package pipeline

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
)

// crowd is a feed with a million ids banned in one jail or another.
func crowd(b *testing.B, keys int) *Feed {
	b.Helper()
	f := NewFeed(FeedOptions{Correlate: correlate.Options{}, Board: NewBoard(offender.Options{}), Zone: func(string) *time.Location { return time.UTC }})
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range keys {
		at = at.Add(100 * time.Millisecond)
		f.Add(Line{
			Host: fmt.Sprint("host-", i%20), Stream: fmt.Sprint("host-", i%20), At: at,
			Text: fmt.Sprintf("%s fail2ban.actions        [1]: NOTICE  [jail-%d] Ban 10.%d.%d.%d", at.Format("2006-01-02 15:04:05,000"), i%3, i>>16, i>>8&255, i&255),
		})
		if i%1000 == 0 {
			f.Engine().Findings()
		}
	}
	f.Flush()
	f.Engine().Findings()
	return f
}

// BenchmarkSave is how long the reading of the log stands still for a save of a
// million keys, and how long the save takes in all.
func BenchmarkSave(b *testing.B) {
	f := crowd(b, 1_000_000)
	b.Logf("%d keys", f.Engine().Keys())
	var stood time.Duration
	least := time.Hour // what it is where nothing else runs
	st := &Store{Path: filepath.Join(b.TempDir(), "state"), Every: time.Second, Saved: func(_ string, d time.Duration, err error) {
		least = min(least, d)
		if stood += d; err != nil {
			b.Error(err)
		}
	}}
	for b.Loop() {
		st.save(stateHead{Cursor: time.Unix(0, 0)}, f, true)
	}
	b.ReportMetric(stood.Seconds()/float64(b.N), "s-stood/op")
	b.ReportMetric(least.Seconds(), "s-least")
}
