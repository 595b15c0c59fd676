package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// stampLayout is fail2ban's own; its milliseconds follow only at a line's
// beginning, after a comma.
const stampLayout = "2006-01-02 15:04:05"

var stampPattern = regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b`)

// Recording is a run of real fail2ban servers, of testdata/recordings at the top: what
// they logged, and beside it what truly happened.
type Recording struct {
	Name  string
	Hosts []Host
}

// Host is one of its servers.
type Host struct {
	Name   string
	File   string // as recorded
	Lines  []string
	Events []Event
}

// Event is a truth: not read from the log, but from what fail2ban made its
// actions execute and what its driver did.
type Event struct {
	T                     float64 // seconds of the epoch
	Jail, ID, Kind, Cause string
}

// Time is when the action was executed.
func (e Event) Time() time.Time { return time.UnixMilli(int64(e.T * 1000)).UTC() }

// Line is a log line on its way into Loki.
type Line struct {
	Host string
	Time time.Time // of the entry
	Text string

	Metadata map[string]string // structured metadata of the entry
}

// Stamp is the time at the line's beginning: the event's own, which goes back
// a few milliseconds now and then, where the entry's does not.
func (l Line) Stamp() time.Time {
	if at, ok := stamp(l.Text); ok {
		return at
	}
	return l.Time
}

// Truth is what really happened on a server of a recording.
type Truth struct {
	Version string
	TZ      string
	Files   []string // what was recorded of it, below the recording's folder
	Events  []Event
}

// ReadTruth reads what really happened in a recording, by host, and tells the
// recording's folder.
func ReadTruth(name string) (dir string, hosts map[string]Truth, err error) {
	root, err := Root()
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, "testdata", "recordings", name)
	text, err := os.ReadFile(filepath.Join(dir, "truth.json"))
	if err != nil {
		return "", nil, err
	}
	var truth struct{ Hosts map[string]Truth }
	if err := json.Unmarshal(text, &truth); err != nil {
		return "", nil, fmt.Errorf("lab: truth of %s: %w", name, err)
	}
	return dir, truth.Hosts, nil
}

// Load reads a recording.
func Load(name string) (*Recording, error) {
	dir, hosts, err := ReadTruth(name)
	if err != nil {
		return nil, err
	}
	r := &Recording{Name: name}
	for host, t := range hosts {
		if t.TZ != "UTC" || len(t.Files) != 1 {
			return nil, fmt.Errorf("lab: %s, %s: zone %s, %d files: only UTC and one file are played", name, host, t.TZ, len(t.Files))
		}
		h := Host{Name: host, File: filepath.Join(dir, filepath.FromSlash(t.Files[0])), Events: t.Events}
		log, err := os.ReadFile(h.File)
		if err != nil {
			return nil, err
		}
		h.Lines = strings.Split(strings.TrimRight(string(log), "\n"), "\n")
		r.Hosts = append(r.Hosts, h)
	}
	slices.SortFunc(r.Hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return r, nil
}

// Lines returns the log lines of all hosts as entries. A host's entries keep
// the order of its file and have times of their own: the line's, and where
// that is not later than its predecessor's, a nanosecond after it. Loki orders
// by time, and keeps one of two equal lines of one time.
func (r *Recording) Lines() []Line {
	var lines []Line
	for _, h := range r.Hosts {
		var last time.Time
		for _, text := range h.Lines {
			at, ok := stamp(text)
			if !ok || !at.After(last) {
				at = last.Add(time.Nanosecond)
			}
			last = at
			lines = append(lines, Line{Host: h.Name, Time: at, Text: text})
		}
	}
	return lines
}

// End is the time of the last line.
func (r *Recording) End() time.Time {
	var end time.Time
	for _, l := range r.Lines() {
		if l.Time.After(end) {
			end = l.Time
		}
	}
	return end
}

// EndAt returns the recording as if it had ended in the second of t: all times
// in its lines, at their beginning and inside, are moved alike.
func (r *Recording) EndAt(t time.Time) *Recording {
	by := t.Truncate(time.Second).Sub(r.End().Truncate(time.Second))
	moved := &Recording{Name: r.Name, Hosts: slices.Clone(r.Hosts)}
	for i := range moved.Hosts {
		h := &moved.Hosts[i]
		h.Lines = slices.Clone(h.Lines)
		for j, line := range h.Lines {
			h.Lines[j] = stampPattern.ReplaceAllStringFunc(line, func(s string) string {
				at, err := time.Parse(stampLayout, s)
				if err != nil {
					return s
				}
				return at.Add(by).Format(stampLayout)
			})
		}
	}
	return moved
}

// Rename returns the recording of one host under another name.
func (r *Recording) Rename(host string) *Recording {
	renamed := &Recording{Name: r.Name, Hosts: slices.Clone(r.Hosts)}
	for i := range renamed.Hosts {
		renamed.Hosts[i].Name = host
	}
	return renamed
}

// Count counts the true events of one kind by their cause.
func (r *Recording) Count(kind string) map[string]int {
	count := map[string]int{}
	for _, h := range r.Hosts {
		for _, e := range h.Events {
			if e.Kind == kind {
				count[e.Cause]++
			}
		}
	}
	return count
}

// CountLines counts the log lines that a pattern matches.
func (r *Recording) CountLines(pattern *regexp.Regexp) int {
	n := 0
	for _, h := range r.Hosts {
		for _, line := range h.Lines {
			if pattern.MatchString(line) {
				n++
			}
		}
	}
	return n
}

// stamp reads the time at a line's beginning.
func stamp(line string) (time.Time, bool) {
	const layout = stampLayout + ",000"
	if len(line) < len(layout) {
		return time.Time{}, false
	}
	at, err := time.Parse(layout, line[:len(layout)])
	return at, err == nil
}
