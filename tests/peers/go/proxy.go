package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/spdystream/spdy"
)

type request struct {
	method, path, byteRange, file string
}

// runProxy waits for one agent, sends it all requests at once and ends when they have.
func runProxy(flags *flag.FlagSet, windows *windowOptions, args []string) error {
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	cert := flags.String("cert", "", "certificate, PEM")
	key := flags.String("key", "", "private key, PEM")
	var requests []request
	flags.Func("get", "path to GET", func(path string) error {
		requests = append(requests, request{method: "GET", path: path})
		return nil
	})
	flags.Func("head", "path to HEAD", func(path string) error {
		requests = append(requests, request{method: "HEAD", path: path})
		return nil
	})
	flags.Func("range", "FIRST-LAST:PATH to GET", func(text string) error {
		parts := strings.SplitN(text, ":", 2)
		if len(parts) != 2 {
			return fmt.Errorf("no path")
		}
		requests = append(requests, request{method: "GET", path: parts[1], byteRange: "bytes=" + parts[0]})
		return nil
	})
	flags.Func("put", "FILE:PATH to PUT", func(text string) error {
		parts := strings.SplitN(text, ":", 2)
		if len(parts) != 2 {
			return fmt.Errorf("no path")
		}
		requests = append(requests, request{method: "PUT", path: parts[1], file: parts[0]})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	identity, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", *listen, &tls.Config{Certificates: []tls.Certificate{identity}})
	if err != nil {
		return err
	}
	printLine(fields{"event": "listening", "address": listener.Addr().String()})
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	put, err := http.ReadRequest(reader)
	if err != nil {
		return err
	}
	hello, err := io.ReadAll(put.Body)
	if err != nil {
		return err
	}
	if put.Method != "PUT" || string(hello) != "Hello from C" {
		return fmt.Errorf("no handshake: %s %q", put.Method, hello)
	}
	const welcome = "HTTP/1.1 200 Connection Established\r\nContent-Length: 12\r\n\r\nHello from P"
	if _, err := io.WriteString(conn, welcome); err != nil {
		return err
	}
	session, err := newSession(conn, reader, *windows)
	if err != nil {
		return err
	}
	go func() { check(session.run()) }()
	return session.exchangeAll(requests)
}

func (s *session) exchangeAll(requests []request) error {
	var running sync.WaitGroup
	failures := make(chan error, len(requests))
	for i, wanted := range requests {
		// SPDY ids go up in the order that the frames go out: they are queued here.
		stream, body, err := s.start(spdy.StreamId(2*i+1), wanted)
		if err != nil {
			return err
		}
		running.Add(1)
		go func(request request) {
			defer running.Done()
			defer s.forget(stream)
			if err := exchange(stream, request, body); err != nil {
				failures <- fmt.Errorf("%s %s: %w", request.method, request.path, err)
			}
		}(wanted)
	}
	running.Wait()
	close(failures)
	return <-failures
}

func (s *session) start(id spdy.StreamId, request request) (*stream, *os.File, error) {
	headers := http.Header{
		":method":  {request.method},
		":path":    {request.path},
		":version": {"HTTP/1.1"},
		":host":    {"localhost"},
		":scheme":  {"https"},
	}
	if request.byteRange != "" {
		headers["range"] = []string{request.byteRange}
	}
	if request.file == "" {
		return s.open(id, headers, true), nil, nil
	}
	body, err := os.Open(request.file)
	if err != nil {
		return nil, nil, err
	}
	info, err := body.Stat()
	if err != nil {
		return nil, nil, err
	}
	headers["content-length"] = []string{strconv.FormatInt(info.Size(), 10)}
	return s.open(id, headers, false), body, nil
}

func exchange(stream *stream, request request, body *os.File) error {
	if body != nil {
		defer body.Close()
		if _, err := io.Copy(stream, body); err != nil {
			return err
		}
		if err := stream.finish(); err != nil {
			return err
		}
	}
	if err := stream.awaitReply(); err != nil {
		return err
	}
	hash := sha256.New()
	size, err := io.Copy(hash, stream)
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(strings.SplitN(stream.headers.Get(":status"), " ", 2)[0])
	if err != nil {
		return err
	}
	headers := fields{}
	for name, values := range stream.headers {
		headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	printLine(fields{
		"method": request.method, "path": request.path, "status": status, "headers": headers,
		"length": size, "sha256": hex.EncodeToString(hash.Sum(nil)),
	})
	return nil
}

func (s *stream) awaitReply() error {
	s.session.lock.Lock()
	defer s.session.lock.Unlock()
	for s.headers == nil {
		if err := s.failed(); err != nil {
			return err
		}
		s.session.changed.Wait()
	}
	return nil
}
