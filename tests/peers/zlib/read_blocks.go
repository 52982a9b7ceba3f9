// Reads SPDY/3 header blocks with Go's compress/zlib, one by one.
//
// Usage: read_blocks DICTIONARY BLOCKS
//
// BLOCKS holds the header blocks of one direction of a session, each behind its length (32 bits,
// big endian). Prints one JSON line per block, before it looks at the next: a list of
// [name, value], both in hexadecimal. All blocks share one inflater; whatever a block does not
// deliver by itself is an error.
package main

import (
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
)

// blockReader gives one block and then refuses: an inflater that asks for more has not delivered
// what it was given.
type blockReader struct {
	block []byte
}

var errNotDelivered = errors.New("block not delivered before the next is asked for")

func (r *blockReader) Read(buf []byte) (int, error) {
	if len(r.block) == 0 {
		return 0, errNotDelivered
	}
	n := copy(buf, r.block)
	r.block = r.block[n:]
	return n, nil
}

func readText(r io.Reader) (string, error) {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return "", err
	}
	octets := make([]byte, size)
	_, err := io.ReadFull(r, octets)
	return hex.EncodeToString(octets), err
}

func readPairs(r io.Reader) ([][2]string, error) {
	var count uint32
	if err := binary.Read(r, binary.BigEndian, &count); err != nil {
		return nil, err
	}
	found := [][2]string{}
	for ; count > 0; count-- {
		name, err := readText(r)
		if err != nil {
			return nil, err
		}
		value, err := readText(r)
		if err != nil {
			return nil, err
		}
		found = append(found, [2]string{name, value})
	}
	return found, nil
}

func run(dictionary, blocks string) error {
	words, err := os.ReadFile(dictionary)
	if err != nil {
		return err
	}
	file, err := os.Open(blocks)
	if err != nil {
		return err
	}
	source := &blockReader{}
	var inflater io.Reader
	for {
		var size uint32
		if err := binary.Read(file, binary.BigEndian, &size); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		source.block = make([]byte, size)
		if _, err := io.ReadFull(file, source.block); err != nil {
			return err
		}
		if inflater == nil {
			if inflater, err = zlib.NewReaderDict(source, words); err != nil {
				return err
			}
		}
		found, err := readPairs(inflater)
		if err != nil {
			return err
		}
		if len(source.block) > 0 {
			return errors.New("octets behind the last pair")
		}
		if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
			return err
		}
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: read_blocks DICTIONARY BLOCKS")
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}
