package pipeline

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// A feed that goes on from a snapshot counts the keys that it has, and forgets
// what one that went on without a break forgets.
func TestMemoryIsBoundedThroughARestart(t *testing.T) {
	const bound = 200
	forgot := 0
	o := FeedOptions{
		Correlate: correlate.Options{MaxKeys: bound, Forgot: func(n int) { forgot += n }},
		Zone:      func(string) *time.Location { return time.UTC },
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	feed := func(f *Feed, from, to int) {
		for i := from; i < to; i++ {
			at := at.Add(time.Duration(i) * time.Second)
			host := fmt.Sprint("host-", i%3)
			f.Add(Line{
				Host: host, Stream: host, At: at,
				Text: fmt.Sprintf("%s fail2ban.filter         [1]: INFO    [sshd] Found 10.0.%d.%d", at.Format("2006-01-02 15:04:05,000"), i>>8, i&255),
			})
		}
		f.Flush()
		f.Engine().Findings()
	}
	whole := NewFeed(o)
	feed(whole, 0, 1000)
	want := forgot
	forgot = 0
	f := NewFeed(o)
	for i := 0; i < 1000; i += 50 {
		feed(f, i, i+50)
		var b bytes.Buffer
		if err := f.Snapshot(&b); err != nil {
			t.Fatal(err)
		}
		keys := f.Engine().Keys()
		var err error
		if f, err = LoadFeed(&b, o); err != nil {
			t.Fatal(err)
		}
		if n := f.Engine().Keys(); n != keys || n > bound {
			t.Fatalf("%d keys, there were %d", n, keys)
		}
	}
	if forgot != want || forgot+f.Engine().Keys() != 1000 {
		t.Errorf("%d forgotten, %d without a restart; %d kept", forgot, want, f.Engine().Keys())
	}
}
