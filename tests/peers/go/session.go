package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	"github.com/docker/spdystream/spdy"
)

// initialWindow is what SPDY/3.1 starts every window with, in octets.
const initialWindow = 65536

// largestData is the largest DATA frame that is sent, in octets.
const largestData = 16384

type windowOptions struct {
	size, slack int64
	quiet       bool
}

// session is one side of a SPDY/3.1 connection. The framer reads in run and writes in writeFrames,
// so that a peer that does not read never stops the reading.
type session struct {
	conn    net.Conn
	framer  *spdy.Framer
	buffer  *bufio.Writer
	options windowOptions
	// control frames go out before data; both channels are read by writeFrames.
	control chan spdy.Frame
	data    chan spdy.Frame
	ended   chan struct{}
	// accept takes the streams that the other side opens; nil where it may open none.
	accept func(*stream)

	lock       sync.Mutex
	changed    *sync.Cond
	streams    map[spdy.StreamId]*stream
	sendWindow int64
	// initialSend is the window that the other side's SETTINGS give each stream.
	initialSend int64
	receive     receiveWindow
	err         error
}

// receiveWindow is credit that the other side has: it is given back when half of it is used.
type receiveWindow struct {
	size, left, owed int64
}

func (w *receiveWindow) take(n int64) int64 {
	w.left -= n
	return w.left
}

// give notes delivered octets and returns the credit to send, 0 for none yet.
func (w *receiveWindow) give(n int64) uint32 {
	w.owed += n
	if w.owed < w.size/2 {
		return 0
	}
	delta := w.owed
	w.left += delta
	w.owed = 0
	return uint32(delta)
}

type stream struct {
	session *session
	id      spdy.StreamId
	// request or reply headers as received; reply is closed when they are there.
	headers    http.Header
	reply      chan struct{}
	sendWindow int64
	receive    receiveWindow
	received   [][]byte
	fin, reset bool
	status     spdy.RstStreamStatus
}

func newSession(conn net.Conn, reader io.Reader, options windowOptions) (*session, error) {
	buffer := bufio.NewWriterSize(conn, 2*largestData)
	framer, err := spdy.NewFramer(buffer, reader)
	if err != nil {
		return nil, err
	}
	s := &session{
		conn:        conn,
		framer:      framer,
		buffer:      buffer,
		options:     options,
		control:     make(chan spdy.Frame, 4096),
		data:        make(chan spdy.Frame),
		ended:       make(chan struct{}),
		streams:     map[spdy.StreamId]*stream{},
		sendWindow:  initialWindow,
		initialSend: initialWindow,
		receive:     receiveWindow{size: initialWindow, left: initialWindow},
	}
	s.changed = sync.NewCond(&s.lock)
	if !options.quiet {
		s.announce()
	}
	go s.writeFrames()
	return s, nil
}

// announce widens the windows: those of streams by SETTINGS, the session's by WINDOW_UPDATE.
func (s *session) announce() {
	s.control <- &spdy.SettingsFrame{FlagIdValues: []spdy.SettingsFlagIdValue{
		{Id: spdy.SettingsMaxConcurrentStreams, Value: 100},
		{Id: spdy.SettingsInitialWindowSize, Value: uint32(s.options.size)},
	}}
	if more := s.options.size - initialWindow; more > 0 {
		s.receive = receiveWindow{size: s.options.size, left: s.options.size}
		s.control <- &spdy.WindowUpdateFrame{StreamId: 0, DeltaWindowSize: uint32(more)}
	}
}

func (s *session) writeFrames() {
	for {
		var frame spdy.Frame
		select {
		case frame = <-s.control:
		case frame = <-s.data:
			// What a stream queued before its data goes out before it, and so does all credit.
			for len(s.control) > 0 {
				s.writeFrame(<-s.control)
			}
		case <-s.ended:
			return
		}
		s.writeFrame(frame)
	}
}

func (s *session) writeFrame(frame spdy.Frame) {
	err := s.framer.WriteFrame(frame)
	if err == nil {
		err = s.buffer.Flush()
	}
	if err != nil {
		s.end(err)
	}
}

// run reads until the connection ends. A breach of the protocol ends the process.
func (s *session) run() error {
	for {
		frame, err := s.framer.ReadFrame()
		if err == nil {
			err = s.handle(frame)
		}
		if err != nil {
			s.end(err)
			return err
		}
	}
}

func (s *session) end(err error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.err == nil {
		s.err = err
		close(s.ended)
		s.conn.Close()
	}
	s.changed.Broadcast()
}

var errGoAway = errors.New("the other side sent GOAWAY")

func (s *session) handle(frame spdy.Frame) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	defer s.changed.Broadcast()
	switch frame := frame.(type) {
	case *spdy.SynStreamFrame:
		return s.onSynStream(frame)
	case *spdy.SynReplyFrame:
		stream := s.streams[frame.StreamId]
		if stream == nil {
			return nil // reset a moment ago
		}
		if stream.headers != nil {
			return fmt.Errorf("second SYN_REPLY on stream %d", frame.StreamId)
		}
		stream.headers = frame.Headers
		stream.fin = frame.CFHeader.Flags&spdy.ControlFlagFin != 0
		close(stream.reply)
	case *spdy.RstStreamFrame:
		stream := s.streams[frame.StreamId]
		if stream == nil {
			return nil
		}
		// npm's spdy-transport forgets a stream as soon as all its data is out, then answers credit
		// for it with INVALID_STREAM, now and then ahead of its FIN.
		if frame.Status == spdy.InvalidStream && stream.headers != nil {
			printLine(fields{"event": "credit refused", "stream": stream.id, "fin": stream.fin})
			return nil
		}
		stream.reset, stream.status = true, frame.Status
	case *spdy.SettingsFrame:
		s.onSettings(frame)
	case *spdy.PingFrame:
		// Ours would be odd as client and even as server; this peer sends none.
		s.control <- frame
	case *spdy.GoAwayFrame:
		if frame.Status != spdy.GoAwayOK {
			return fmt.Errorf("%w, status %d", errGoAway, frame.Status)
		}
		if len(s.streams) == 0 {
			return errGoAway
		}
	case *spdy.HeadersFrame:
		return nil
	case *spdy.WindowUpdateFrame:
		return s.onWindowUpdate(frame)
	case *spdy.DataFrame:
		return s.onData(frame)
	}
	return nil
}

func (s *session) onSynStream(frame *spdy.SynStreamFrame) error {
	if s.accept == nil || frame.StreamId%2 == 0 {
		return fmt.Errorf("unexpected SYN_STREAM %d", frame.StreamId)
	}
	if s.streams[frame.StreamId] != nil {
		return fmt.Errorf("stream %d opened twice", frame.StreamId)
	}
	stream := s.add(frame.StreamId)
	stream.headers = frame.Headers
	stream.fin = frame.CFHeader.Flags&spdy.ControlFlagFin != 0
	go s.accept(stream)
	return nil
}

func (s *session) onSettings(frame *spdy.SettingsFrame) {
	for _, setting := range frame.FlagIdValues {
		if setting.Id != spdy.SettingsInitialWindowSize {
			continue
		}
		delta := int64(setting.Value) - s.initialSend
		s.initialSend += delta
		for _, stream := range s.streams {
			stream.sendWindow += delta
		}
		return // the first value of an id counts
	}
}

func (s *session) onWindowUpdate(frame *spdy.WindowUpdateFrame) error {
	window := &s.sendWindow
	if frame.StreamId != 0 {
		stream := s.streams[frame.StreamId]
		if stream == nil {
			return nil
		}
		window = &stream.sendWindow
	}
	*window += int64(frame.DeltaWindowSize)
	if frame.DeltaWindowSize == 0 || *window > 1<<31-1 {
		return fmt.Errorf("WINDOW_UPDATE of %d on stream %d", frame.DeltaWindowSize, frame.StreamId)
	}
	return nil
}

func (s *session) onData(frame *spdy.DataFrame) error {
	size := int64(len(frame.Data))
	if left := s.receive.take(size); left < -s.options.slack {
		return fmt.Errorf("session window overrun by %d", -left)
	}
	stream := s.streams[frame.StreamId]
	if stream == nil {
		s.credit(nil, size)
		return nil
	}
	if stream.fin {
		return fmt.Errorf("DATA after FIN on stream %d", frame.StreamId)
	}
	if left := stream.receive.take(size); left < -s.options.slack {
		return fmt.Errorf("window of stream %d overrun by %d", frame.StreamId, -left)
	}
	if size > 0 {
		stream.received = append(stream.received, frame.Data)
	}
	stream.fin = frame.Flags&spdy.DataFlagFin != 0
	return nil
}

// credit gives consumed octets back; the caller holds the lock.
func (s *session) credit(stream *stream, size int64) {
	if delta := s.receive.give(size); delta > 0 {
		s.control <- &spdy.WindowUpdateFrame{StreamId: 0, DeltaWindowSize: delta}
	}
	if stream == nil || stream.fin {
		return
	}
	if delta := stream.receive.give(size); delta > 0 {
		s.control <- &spdy.WindowUpdateFrame{StreamId: stream.id, DeltaWindowSize: delta}
	}
}

// add makes a stream; the caller holds the lock.
func (s *session) add(id spdy.StreamId) *stream {
	size := int64(initialWindow)
	if !s.options.quiet {
		size = s.options.size
	}
	stream := &stream{
		session:    s,
		id:         id,
		reply:      make(chan struct{}),
		sendWindow: s.initialSend,
		receive:    receiveWindow{size: size, left: size},
	}
	s.streams[id] = stream
	return stream
}

// open starts a stream of our own.
func (s *session) open(id spdy.StreamId, headers http.Header, fin bool) *stream {
	s.lock.Lock()
	stream := s.add(id)
	s.lock.Unlock()
	frame := &spdy.SynStreamFrame{StreamId: id, Priority: 3, Headers: headers}
	if fin {
		frame.CFHeader.Flags = spdy.ControlFlagFin
	}
	s.control <- frame
	return stream
}

func (s *session) forget(stream *stream) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, piece := range stream.received {
		s.credit(nil, int64(len(piece)))
	}
	stream.received = nil
	delete(s.streams, stream.id)
}

func (s *stream) respond(headers http.Header, fin bool) {
	frame := &spdy.SynReplyFrame{StreamId: s.id, Headers: headers}
	if fin {
		frame.CFHeader.Flags = spdy.ControlFlagFin
	}
	s.session.control <- frame
}

// failed says why a stream is of no more use; the caller holds the lock.
func (s *stream) failed() error {
	if s.session.err != nil {
		return s.session.err
	}
	if s.reset {
		return fmt.Errorf("stream %d reset, status %d", s.id, s.status)
	}
	return nil
}

// Read gives what arrived and returns its credit.
func (s *stream) Read(buf []byte) (int, error) {
	s.session.lock.Lock()
	defer s.session.lock.Unlock()
	for len(s.received) == 0 {
		if s.fin {
			return 0, io.EOF
		}
		if err := s.failed(); err != nil {
			return 0, err
		}
		s.session.changed.Wait()
	}
	n := copy(buf, s.received[0])
	if s.received[0] = s.received[0][n:]; len(s.received[0]) == 0 {
		s.received = s.received[1:]
	}
	s.session.credit(s, int64(n))
	return n, nil
}

// Write sends DATA as far as both windows go.
func (s *stream) Write(octets []byte) (int, error) {
	done := 0
	for done < len(octets) {
		size, err := s.room(int64(len(octets) - done))
		if err != nil {
			return done, err
		}
		piece := append([]byte(nil), octets[done:done+int(size)]...)
		if err := s.send(&spdy.DataFrame{StreamId: s.id, Data: piece}); err != nil {
			return done, err
		}
		done += int(size)
	}
	return done, nil
}

func (s *stream) finish() error {
	return s.send(&spdy.DataFrame{StreamId: s.id, Flags: spdy.DataFlagFin})
}

func (s *stream) send(frame spdy.Frame) error {
	// SYN_STREAM or SYN_REPLY of this stream are in control, which goes first.
	select {
	case s.session.data <- frame:
		return nil
	case <-s.session.ended:
		return errors.New("session ended")
	}
}

// room waits for credit and takes it from both windows.
func (s *stream) room(wanted int64) (int64, error) {
	s.session.lock.Lock()
	defer s.session.lock.Unlock()
	for {
		if err := s.failed(); err != nil {
			return 0, err
		}
		size := wanted
		for _, limit := range []int64{s.sendWindow, s.session.sendWindow, largestData} {
			if limit < size {
				size = limit
			}
		}
		if size > 0 {
			s.sendWindow -= size
			s.session.sendWindow -= size
			return size, nil
		}
		s.session.changed.Wait()
	}
}

// check ends the process for anything but an orderly end of the session.
func check(err error) {
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errGoAway) {
		log.Fatalf("session: %v", err)
	}
}
