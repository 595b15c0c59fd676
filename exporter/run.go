package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fail2ban-loki-exporter/exporter/internal/config"
	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/enrich"
	"fail2ban-loki-exporter/exporter/internal/loki"
	"fail2ban-loki-exporter/exporter/internal/offender"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
)

const defaultListenAddress = ":10191"

// runCommand is the daemon.
type runCommand struct {
	common *common
	web    webFlags
	once   bool
	check  bool
}

func addRun(app *kingpin.Application, c *common, commands map[string]command) {
	r := &runCommand{common: c}
	cmd := app.Command("run", "The daemon (default): read the past from Loki, then follow; serve metrics; push findings back.").Default()
	r.web.add(cmd)
	cmd.Flag("config.check", "Validate the configuration and end, without touching the network.").BoolVar(&r.check)
	cmd.Flag("once", "Read the past up to now, publish, and end.").BoolVar(&r.once)
	commands[cmd.FullCommand()] = r.run
}

func (r *runCommand) run(ctx context.Context, log *slog.Logger, std stdio) error {
	cfg, err := loadConfig(r.common)
	if err != nil {
		return err
	}
	if r.check {
		fmt.Fprintln(std.err, "configuration is valid")
		return nil
	}
	v, err := r.supervise(terminal(std.err), cfg, log)
	if err != nil {
		return err
	}
	defer v.close()
	l, err := net.Listen("tcp", r.web.listenAddress)
	if err != nil {
		return fmt.Errorf("--web.listen-address: %w", err)
	}
	server := newServer(v, &r.web)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.serve(l, server) })
	g.Go(func() error {
		<-ctx.Done()
		stop, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		return server.Shutdown(stop)
	})
	g.Go(func() error {
		defer cancel() // when every source has ended, so has the program
		return v.follow(ctx)
	})
	return g.Wait()
}

// daemon is the wiring of the sources, the ranking, the sinks and the metrics.
type daemon struct {
	cfg       *config.Config
	log       *slog.Logger
	once      bool
	bar       io.Writer   // a terminal to show progress on, or nil
	past      []*progress // of each source: the reading of its look-back
	registry  *prometheus.Registry
	self      *publish.Self
	metrics   *publish.Metrics
	exemplars *publish.Exemplars // nil where nobody asks for them
	compat    *publish.Compat    // nil where nobody asks for it
	redact    redactors
	board     *pipeline.Board
	origins   *enrich.Files // nil for none
	followers []*pipeline.Follower
	recent    []*pipeline.Recent // of each source
	clients   []*loki.Client
	waiting   []*pending              // sources that nothing reads yet
	sinks     []*publish.LokiSink     // of each of cfg.Clients
	remotes   []*publish.RemoteWriter // of each of cfg.Remotes
	receivers []*http.Client          // of remotes
	histories histories
	handsOver atomic.Bool // another daemon goes on

	mu      sync.Mutex
	status  []pipeline.Status
	view    *publish.View // what /metrics shows
	outlook outlook
	banned  []map[string][]correlate.Place // of each source, where ids of the ranking are banned now
	ranked  ranked
	save    atomic.Pointer[lastSave] // nil before the first
	api     atomic.Pointer[apiView]  // nil before all have caught up
	looking sync.WaitGroup
}

// outlook is what is made of every id and not of the first ones alone, which
// may take seconds: it is made anew at most so often.
type outlook struct {
	made     time.Time
	busy     bool
	networks []offender.Network
	jails    []publish.JailOutlook
}

const outlookEvery = time.Minute

// lookOut has the outlook made anew where it is due: the first one at once,
// the others beside what goes on, for the next view. It is called with d.mu.
func (d *daemon) lookOut(now time.Time, sources []publish.SourceReport) {
	if d.outlook.busy || d.rebuilding() || !d.once && now.Sub(d.outlook.made) < outlookEvery {
		return
	}
	board := d.board.Freeze()
	top, before := d.cfg.Metrics.TopNetworks, d.outlook.networks
	name := func(n *offender.Network) string { return n.Network }
	look := func() outlook {
		return outlook{
			made: now, networks: publish.Steady(board.Networks(now, top+publish.Margin(top)), top, name, before),
			jails: jailOutlooks(returnsOf(board, sources), sources, adviceOptions(d.cfg)),
		}
	}
	if d.outlook.made.IsZero() || d.once {
		d.outlook = look()
		return
	}
	d.outlook.busy = true
	d.looking.Go(func() {
		made := look()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.outlook = made
	})
}

// newDaemon makes a daemon that is ready to follow.
func newDaemon(cfg *config.Config, log *slog.Logger, once bool) (*daemon, error) {
	return newDaemonOn(nil, cfg, log, once)
}

// newDaemonOn shows its progress on a terminal, where there is one.
func newDaemonOn(bar io.Writer, cfg *config.Config, log *slog.Logger, once bool) (*daemon, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d, err := prepare(bar, cfg, log, once, registry, publish.NewSelf(registry))
	if err != nil {
		return nil, err
	}
	d.start(nil)
	return d, nil
}

// prepare makes a daemon whose sources wait for where to go on: see start. It
// finds all that is wrong with the configuration.
func prepare(bar io.Writer, cfg *config.Config, log *slog.Logger, once bool, registry *prometheus.Registry, self *publish.Self) (*daemon, error) {
	d := &daemon{bar: bar, cfg: cfg, log: log, once: once, registry: registry, self: self, origins: openOrigins(&cfg.Enrich, log), status: make([]pipeline.Status, len(cfg.Sources)), banned: make([]map[string][]correlate.Place, len(cfg.Sources))}
	var err error
	if d.redact, err = newRedactors(&cfg.Privacy); err != nil {
		return nil, err
	}
	d.board = pipeline.NewBoard(d.ranking())
	d.board.Ignore = within(cfg.Offenders.Ignore)
	if cfg.Metrics.CompatF2B {
		d.compat = publish.NewCompat(metricsOptions(cfg))
	}
	if cfg.Metrics.Exemplars {
		d.exemplars = publish.NewExemplars(d.redact.metrics)
	}
	d.metrics = publish.NewMetrics(metricsOptions(cfg), d.self)
	if err := d.addSinks(); err != nil {
		return nil, err
	}
	if err := errors.Join(d.addRemotes(), d.addHistories()); err != nil {
		return nil, err
	}
	for i := range cfg.Sources {
		if err := d.addSource(i); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// start gives each source where to go on: from what another daemon carried
// here, from its state file, or from the beginning of its look-back.
func (d *daemon) start(c *carried) {
	if d.compat != nil {
		d.registry.MustRegister(d.compat)
	}
	d.self.ConfigReloadOK.Set(1)
	d.self.ConfigReloadTime.SetToCurrentTime()
	if c == nil {
		d.self.CatchingUp.Set(1)
	} else {
		d.show(c.view) // until all sources have caught up
		d.api.Store(c.api)
		d.takeRemotes(c.remotes)
	}
	d.histories.ledger = openLedger(d.cfg.State.Path) // the last daemon may have noted something
	for i, p := range d.waiting {
		saved := d.resume(p, c)
		feed := pipeline.NewFeed(p.feed)
		d.past = append(d.past, p.progress)
		if saved != nil {
			feed, p.progress.from = saved.Feed, saved.Cursor
		} else {
			d.readBack(p.source)
		}
		if status, ok := c.status(p.source.Name); ok && saved != nil {
			d.status[i] = status
		}
		p.follow.Resume, p.follow.Steps = saved, d.stepsOf(p.source, saved != nil)
		d.followers = append(d.followers, pipeline.NewFollower(p.follow, newLokiSource(p.source, p.client), feed, p.sinks, d.log, func(st pipeline.Status) { d.progress(i, st) }))
	}
	d.waiting = nil
}

// metricsOptions bound the series of the log's metrics.
func metricsOptions(cfg *config.Config) publish.MetricsOptions {
	m := &cfg.Metrics
	o := publish.MetricsOptions{
		Detail: m.Detail, MaxHosts: m.MaxHosts, MaxJails: m.MaxJails, NameSource: len(cfg.Sources) > 1, ForgetAfter: time.Duration(m.ForgetAfter),
	}
	if m.Detail == "auto" {
		o.Detail = ""
	}
	return o
}

func (d *daemon) addSource(i int) error {
	s := &d.cfg.Sources[i]
	past := &progress{
		name: s.Name, from: time.Now().Add(-time.Duration(s.Lookback)), to: time.Now(), log: d.log, bar: d.bar,
		ratio: d.self.BackfillProgress.WithLabelValues(s.Name).Set,
	}
	client, err := newLokiClient(s, d.log, d.self, past)
	if err != nil {
		return fmt.Errorf("sources[%d]: %w", i, err)
	}
	d.clients = append(d.clients, client)
	zone, err := zoneOf(s)
	if err != nil {
		return err
	}
	parser, err := parserOptions(d.cfg, s)
	if err != nil {
		return err
	}
	sinks := d.sinksOf(s.Name)
	o := correlateOptions(d.cfg)
	o.Open, o.Failing = len(sinks) > 0, d.cfg.Metrics.CompatF2B
	d.bound(&o, s.Name)
	store, err := d.store(s)
	if err != nil {
		return err
	}
	board := d.board.For(s.Name)
	if len(d.cfg.Sources) > 1 && (len(sinks) > 0 || store != nil) {
		board.Separate(d.ranking())
	}
	if len(sinks) > 0 {
		board.Tell(d.cfg.Metrics.TopOffenders)
	}
	samples := newSampler(d.log, d.redact.log)
	feedOptions := pipeline.FeedOptions{
		Correlate: o, Tally: true, Parser: parser, Zone: zone, Newest: time.Now(), Board: board,
		Count:    func(result string) { d.self.Lines.WithLabelValues(result).Inc() },
		Unparsed: samples.unparsed,
	}
	print, err := fingerprint(d.cfg, s)
	if err != nil {
		return err
	}
	d.status[i] = pipeline.Status{Source: s.Name}
	lag := time.Duration(s.Lag)
	if d.once {
		lag = 0
	}
	recent := pipeline.NewRecent(d.cfg.API.MaxRestores)
	d.recent = append(d.recent, recent)
	d.waiting = append(d.waiting, &pending{
		source: s, client: client, progress: past, sinks: sinks, feed: feedOptions, fingerprint: print,
		follow: pipeline.FollowOptions{
			Name: s.Name, Lookback: time.Duration(s.Lookback), Lag: lag, Poll: time.Duration(s.PollInterval), MaxLateness: time.Duration(s.MaxLateness),
			Once: d.once, Query: s.Query, Fatal: final, Store: store, Recent: recent,
			Seen:        func(findings []correlate.Finding) { d.exemplars.Add(sourceLabel(s.Name, len(d.cfg.Sources)), findings) },
			AuditWindow: time.Duration(s.AuditWindow), AuditInterval: time.Duration(s.AuditEvery),
			Late:    func(lines int) { d.self.LateLines.Add(float64(lines)) },
			Rebuilt: d.rebuilt,
		},
	})
	return nil
}

// rebuilt notes that a history was read again.
func (d *daemon) rebuilt(verdicts uint64) {
	d.self.RevisedVerdicts.Add(float64(verdicts))
	d.self.StateRebuilt.SetToCurrentTime()
}

// final tells errors that no waiting mends: a wrong query, tenant or password.
func final(err error) bool {
	var e *loki.Error
	return errors.As(err, &e) && !e.Temporary()
}

// addSinks makes a sink of each client.
func (d *daemon) addSinks() error {
	for i := range d.cfg.Clients {
		c := &d.cfg.Clients[i]
		client, err := newPushClient(c, d.log)
		if err != nil {
			return fmt.Errorf("clients[%d]: %w", i, err)
		}
		d.clients = append(d.clients, client)
		name := "loki"
		if len(d.cfg.Clients) > 1 {
			name = fmt.Sprintf("loki-%d", i)
		}
		d.sinks = append(d.sinks, publish.NewLokiSink(client, d.self.Count(publish.LokiOptions{
			Name: name, Labels: c.ExternalLabels, BatchSize: c.BatchSize, BatchWait: time.Duration(c.BatchWait),
			QueueSize: int(c.QueueSize), QueueWait: time.Duration(c.QueueWait), Pause: time.Duration(c.Backoff.MaxPeriod),
			NameSource: len(d.cfg.Sources) > 1, Redact: d.redact.findings, Own: client, Log: d.log,
		})))
	}
	return nil
}

// sinksOf gives the sinks that a source's findings go to.
func (d *daemon) sinksOf(source string) (sinks []pipeline.Sink) {
	for i, s := range d.sinks {
		if only := d.cfg.Clients[i].Sources; len(only) == 0 || slices.Contains(only, source) {
			sinks = append(sinks, s)
		}
	}
	return sinks
}

// readBack has the sinks of a source that begins anew see what was said of its
// look-back before, and of who became an offender before that.
func (d *daemon) readBack(source *config.Source) {
	from := time.Now().Add(-time.Duration(max(source.Lookback, d.cfg.Offenders.Window)))
	for i, s := range d.sinks {
		if only := d.cfg.Clients[i].Sources; len(only) == 0 || slices.Contains(only, source.Name) {
			s.ReadBack(from)
		}
	}
}

// follow reads all sources until the context ends, and lets the sinks run for
// as long as the last of them needs to end.
func (d *daemon) follow(ctx context.Context) error {
	pushing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var sinks sync.WaitGroup
	for _, s := range d.sinks {
		sinks.Go(func() { s.Run(pushing) })
	}
	d.writeMetrics(pushing, &sinks)
	g, reading := errgroup.WithContext(ctx)
	for _, f := range d.followers {
		g.Go(func() error { return f.Run(reading) })
	}
	err := g.Wait()
	d.closeHistories()
	stop()
	sinks.Wait()
	return err
}

// progress takes a source's state after a window and, once all have caught up,
// makes the view that /metrics shows.
func (d *daemon) progress(i int, st pipeline.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if st.Err != nil || !st.CaughtUp { // the last good report stays in view
		st.Report = d.status[i].Report
		st.CaughtUp = d.status[i].CaughtUp
	} else if !d.status[i].CaughtUp {
		d.past[i].end()
		d.log.Info("caught up with Loki", "source_name", st.Source, "lines", st.Lines, "hosts", len(st.Report.Hosts), "took", time.Since(st.Started).Round(time.Millisecond))
	}
	d.status[i] = st
	now := time.Now()
	cursor, committed, caughtUp, unnamed, keys := now, now, true, 0, 0
	var sources []publish.SourceReport
	for k := range d.status {
		s := &d.status[k]
		if s.Cursor.Before(cursor) {
			cursor = s.Cursor
		}
		if s.Committed.Before(committed) {
			committed = s.Committed
		}
		caughtUp = caughtUp && s.CaughtUp
		unnamed += s.Unnamed
		keys += s.Keys
		sources = append(sources, publish.SourceReport{Name: s.Source, Report: s.Report})
	}
	if !cursor.IsZero() {
		d.self.Cursor.Set(float64(cursor.UnixMilli()) / 1000)
		d.self.Lag.Set(now.Sub(cursor).Seconds())
	}
	if !committed.IsZero() {
		d.self.Committed.Set(float64(committed.UnixMilli()) / 1000)
	}
	d.self.UnnamedHosts.Set(float64(unnamed))
	d.self.TrackedKeys.Set(float64(keys))
	d.self.CatchingUp.Set(0)
	if !caughtUp {
		d.self.CatchingUp.Set(1)
		return
	}
	d.refreshOrigins(now)
	ranking := d.rank(i, now)
	d.lookOut(now, sources)
	d.view = &publish.View{
		At: now, Sources: sources, Offenders: ranking.Rows, Tracked: ranking.Tracked, Repeat: ranking.Repeat, CaughtUp: true,
		Networks: d.outlook.networks, Jails: d.outlook.jails, Countries: ranking.countries, Exemplars: d.exemplars,
	}
	d.show(d.view)
}

// show makes a view the one that the metrics show, as they may show it.
func (d *daemon) show(v *publish.View) {
	if v == nil { // the last daemon has never caught up
		return
	}
	hidden := *v
	hidden.Offenders, hidden.Networks = d.redact.metrics.Offenders(v.Offenders), d.redact.metrics.Networks(v.Networks)
	d.metrics.Set(&hidden)
	if d.compat != nil {
		d.compat.Set(&hidden)
	}
}

// ready says why the daemon is not ready, or nil.
func (d *daemon) ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.status {
		switch {
		case s.Err != nil:
			return fmt.Errorf("source %s: %w", s.Source, s.Err)
		case !s.CaughtUp:
			return fmt.Errorf("source %s: the past is being read, up to %s so far", s.Source, s.Cursor.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func (d *daemon) close() {
	d.looking.Wait()
	for _, c := range d.clients {
		c.Close()
	}
	for _, c := range d.receivers {
		c.CloseIdleConnections()
	}
}

// sampler shows one unreadable line a minute.
type sampler struct {
	log    *slog.Logger
	redact *publish.Redactor
	last   time.Time
}

func newSampler(log *slog.Logger, redact *publish.Redactor) *sampler {
	return &sampler{log: log, redact: redact}
}

// maxSample is how much of a line a log message shows.
const maxSample = 300

func (s *sampler) unparsed(l pipeline.Line) {
	if time.Since(s.last) < time.Minute {
		return
	}
	s.last = time.Now()
	s.log.Warn("a line of fail2ban's cannot be read; one a minute is shown", "host", l.Host, "line", sample(l.Text, maxSample, s.redact))
}

// maxHidden bounds how much of a line is searched for addresses to hide.
const maxHidden = 4096

// sample is a line of a log as a message may show it: with addresses hidden
// where they shall be, cut, and quoted, in this order, so that no half of an
// address is overlooked and no escape is cut in its midst.
func sample(line string, length int, redact *publish.Redactor) string {
	line = redact.Text(line[:min(len(line), maxHidden)])
	return strconv.QuoteToASCII(line[:min(len(line), length)])
}
