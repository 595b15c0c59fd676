package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"
)

// supervisor runs one daemon after the other: each reload that succeeds makes
// a new one, to which the last one hands what its sources have come to. Where
// a source's settings have changed, that one source is read anew.
type supervisor struct {
	r       *runCommand
	log     *slog.Logger
	current atomic.Pointer[daemon]
	mux     atomic.Pointer[http.Handler] // of the current daemon
	wanted  chan chan error              // reloads, and where to say what came of them
}

func (r *runCommand) supervise(bar io.Writer, cfg *config.Config, log *slog.Logger) (*supervisor, error) {
	v := &supervisor{r: r, log: log, wanted: make(chan chan error)}
	d, err := newDaemonOn(bar, cfg, log, r.once)
	if err != nil {
		return nil, err
	}
	return v, v.show(d)
}

// show lets the web server serve a daemon.
func (v *supervisor) show(d *daemon) error {
	prefix, err := v.r.web.prefix()
	if err != nil {
		return err
	}
	mux, err := d.handler(&v.r.web)
	if err != nil {
		return err
	}
	outer := http.NewServeMux()
	outer.Handle("/", mux)
	outer.HandleFunc(prefix+"/-/reload", v.reloadRequest)
	handler := http.Handler(outer)
	v.current.Store(d)
	v.mux.Store(&handler)
	return nil
}

// ServeHTTP serves the current daemon.
func (v *supervisor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*v.mux.Load()).ServeHTTP(w, r)
}

// reloadWait bounds how long a request for a reload waits for its answer. The
// reload goes on without it.
const reloadWait = 30 * time.Second

func (v *supervisor) reloadRequest(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		http.Error(w, "only POST or PUT reloads", http.StatusMethodNotAllowed)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reloadWait)
	defer cancel()
	answer := make(chan error, 1)
	select {
	case v.wanted <- answer:
	case <-ctx.Done():
		http.Error(w, "another reload is under way", http.StatusServiceUnavailable)
		return
	}
	select {
	case err := <-answer:
		if err != nil {
			http.Error(w, "failed to reload config: "+err.Error(), http.StatusInternalServerError)
		}
	case <-ctx.Done():
		http.Error(w, "the reload is still under way", http.StatusGatewayTimeout)
	}
}

func (v *supervisor) close() { v.current.Load().close() }

// follow runs the daemons until the context ends, or one has ended by itself.
func (v *supervisor) follow(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		d := v.current.Load()
		reading, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- d.follow(reading) }()
		next, answer, err := v.next(d, hangup, ended)
		if next == nil {
			cancel()
			return err
		}
		c := d.carry(cancel, ended)
		cancel()
		if d.compat != nil {
			d.registry.Unregister(d.compat)
		}
		next.start(c)
		d.close()
		answer <- v.show(next)
		v.log.Info("configuration reloaded")
	}
}

// next waits for a reload that succeeds: until then the daemon goes on. It
// returns none when the daemon has ended.
func (v *supervisor) next(d *daemon, hangup <-chan os.Signal, ended <-chan error) (*daemon, chan<- error, error) {
	for {
		var answer chan error
		select {
		case err := <-ended:
			return nil, nil, err
		case <-hangup:
			answer = make(chan error, 1)
		case answer = <-v.wanted:
		}
		next, err := v.prepare(d)
		if err == nil {
			return next, answer, nil
		}
		d.self.ConfigReloadOK.Set(0)
		v.log.Error("the configuration was not reloaded; the old one stays", "err", err)
		answer <- err
	}
}

func (v *supervisor) prepare(d *daemon) (*daemon, error) {
	if d.once {
		return nil, errors.New("--once ends by itself: there is nothing to reload")
	}
	cfg, err := loadConfig(v.r.common)
	if err != nil {
		return nil, err
	}
	return prepare(d.bar, cfg, v.log, false, d.registry, d.self)
}

// carried is what one daemon hands to the next.
type carried struct {
	view     *publish.View
	api      *apiView
	statuses map[string]pipeline.Status
	states   map[string][]byte
	remotes  map[string]*publish.RemoteWriter
}

// state is what a source has come to, nil for nothing to go on from.
func (c *carried) state(source string) []byte {
	if c == nil {
		return nil
	}
	return c.states[source]
}

func (c *carried) status(source string) (st pipeline.Status, ok bool) {
	if c == nil {
		return st, false
	}
	st, ok = c.statuses[source]
	return st, ok
}

// haltWait bounds how long a reload waits for windows that are being read. What
// is not at an end by then is read again.
const haltWait = 20 * time.Second

// carry ends the daemon between two windows and takes what it has come to.
func (d *daemon) carry(cancel func(), ended <-chan error) *carried {
	d.handsOver.Store(true)
	for _, f := range d.followers {
		f.Halt()
	}
	patience := time.NewTimer(haltWait)
	defer patience.Stop()
	var err error
	select {
	case err = <-ended:
	case <-patience.C:
		cancel()
		err = <-ended
	}
	if err != nil {
		d.log.Warn("the reading ended with an error", "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &carried{view: d.view, api: d.api.Load(), statuses: map[string]pipeline.Status{}, states: map[string][]byte{}, remotes: d.carriedRemotes()}
	for i, f := range d.followers {
		s := &d.cfg.Sources[i]
		c.statuses[s.Name] = d.status[i]
		print, err := fingerprint(d.cfg, s)
		if err == nil {
			c.states[s.Name], err = f.State(print)
		}
		if err != nil && !errors.Is(err, pipeline.ErrNoState) {
			d.log.Warn("a source is read anew", "source_name", s.Name, "err", err)
		}
	}
	return c
}
