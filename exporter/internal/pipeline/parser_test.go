package pipeline

import (
	"testing"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// A host that a line names is the line's host; a jail that it does not name is
// the stream's, else the format's.
func TestFormatNamesHostAndJail(t *testing.T) {
	format, err := fail2ban.NewFormat(fail2ban.FormatOptions{Name: "mine", Pattern: "<time>|<host>|<jail>|<action>|<ip>"})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	stamp := at.Format(time.RFC3339)
	f := NewFeed(FeedOptions{Correlate: correlate.Options{Events: true}, Parser: fail2ban.Options{Format: format}})
	for _, l := range []Line{
		{Host: "label", At: at, Text: stamp + "|web-1|sshd|ban|192.0.2.1", Jail: "stream", Unnamed: true},
		{Host: "label", At: at, Text: stamp + "|web-1||ban|192.0.2.2", Jail: "stream", Unnamed: true},
		{Host: "label", At: at, Text: stamp + "|||ban|192.0.2.3", Unnamed: true},
		{Host: "label", At: at.Add(time.Second), Text: stamp + "|web-2||ban|192.0.2.4"},
	} {
		f.Add(l)
	}
	f.Flush()
	f.Engine().Finish(at.Add(time.Minute))
	got := map[string]string{}
	for _, x := range f.Engine().Findings() {
		if x.Kind == correlate.FindingEvent {
			got[x.Event.ID] = x.Event.Host + "/" + x.Event.Jail
		}
	}
	for id, want := range map[string]string{"192.0.2.1": "web-1/sshd", "192.0.2.2": "web-1/stream", "192.0.2.3": "label/mine", "192.0.2.4": "web-2/mine"} {
		if got[id] != want {
			t.Errorf("%s: %q, want %q", id, got[id], want)
		}
	}
	if f.Coverage("web-1").Events != 2 || f.Coverage("label").Events != 1 || f.Unnamed() != 0 {
		t.Errorf("coverage: %+v, %d unnamed", f.coverage, f.Unnamed())
	}
}
