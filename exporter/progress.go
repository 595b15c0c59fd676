package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"fail2ban-loki-exporter/exporter/internal/loki"
)

// progress tells how far the reading of the past has come: as a bar on a
// terminal, else as a line of the log now and then.
type progress struct {
	name     string
	from, to time.Time // what is read in all
	log      *slog.Logger
	bar      io.Writer     // a terminal, or nil
	ratio    func(float64) // told where set

	began, told time.Time
	lines       int // of calls of Range that have ended
	last        loki.Progress
	drawn, over bool
}

// How often it is told.
const (
	barEvery = 200 * time.Millisecond
	logEvery = 10 * time.Second
	barWidth = 30
)

// terminal is w where it is one that somebody looks at, else nil.
func terminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return w
	}
	return nil
}

// tell takes what a client says after each page.
func (p *progress) tell(now time.Time, at loki.Progress) {
	if p.over {
		return
	}
	if p.began.IsZero() {
		p.began, p.told = now, now
	}
	if !at.From.Equal(p.last.From) {
		p.lines += p.last.Entries
	}
	p.last = at
	if p.ratio != nil {
		p.ratio(p.share())
	}
	every := logEvery
	if p.bar != nil {
		every = barEvery
	}
	if now.Sub(p.told) < every {
		return
	}
	p.told = now
	if p.bar != nil {
		p.draw(now)
		return
	}
	p.log.Info("reading the past", "source_name", p.name, "done", fmt.Sprintf("%.0f%%", 100*p.share()), "up_to", at.At.UTC().Format(time.RFC3339),
		"lines", p.lines+at.Entries, "left", p.left(now))
}

// share is how much of the range has been read.
func (p *progress) share() float64 {
	whole := p.to.Sub(p.from)
	if whole <= 0 {
		return 1
	}
	return min(1, max(0, float64(p.last.At.Sub(p.from))/float64(whole)))
}

// left is about how long it still takes.
func (p *progress) left(now time.Time) time.Duration {
	s := p.share()
	if s == 0 {
		return 0
	}
	return time.Duration(float64(now.Sub(p.began)) * (1 - s) / s).Round(time.Second)
}

func (p *progress) draw(now time.Time) {
	full := int(p.share() * barWidth)
	fmt.Fprintf(p.bar, "\r\x1b[K%s [%s%s] %3.0f%%  %s  %d lines  %s left", p.name, strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*p.share(), p.last.At.UTC().Format("2006-01-02 15:04"), p.lines+p.last.Entries, p.left(now))
	p.drawn = true
}

// end removes the bar. Nothing is told any more.
func (p *progress) end() {
	if p.over {
		return
	}
	p.over = true
	if p.ratio != nil {
		p.ratio(1)
	}
	if p.drawn {
		fmt.Fprint(p.bar, "\r\x1b[K")
	}
}
