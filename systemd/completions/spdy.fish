# Completion of @PROGRAM@ for fish: what --help of the installed program says.

function __@PROGRAM@_candidates
    set -l words (commandline -opc)
    set -l program $words[1]
    set -l help ($program --help 2>/dev/null)
    # Down to the command that is being typed: `spdy-proxy key use`.
    set -l deeper
    for word in $words[2..-1]
        string match -q -r '^[a-z]' -- $word
        and string match -q -- "  $word *" (printf '%s\n' $help | sed '1,/^Commands:/d')
        or continue
        set -a deeper $word
        set help ($program $deeper --help 2>/dev/null)
    end
    # A flag that takes a value stands there as [--ca <file>], by its short name if it has one.
    set -l previous $words[-1]
    set -l short (string replace -r -f -- "^  (-.), $previous(?![a-z-]).*" '$1' $help)
    test -n "$short"
    and set -l shown $short
    or set -l shown $previous
    if string match -q -- '-*' $previous
        and string match -q -- "*[$shown <*" $help[1]
        switch $previous
            case --log
                printf '%s\n' error warn info debug
            case --access
                printf '%s\n' password open
            case '*'
                __fish_complete_path (commandline -ct)
        end
    else if string match -q -- '-*' (commandline -ct)
        printf '%s\n' $help | sed -nE 's/^  (-.), (--[a-z-]+) *(.*)/\1\t\3\n\2\t\3/p; s/^  (--[a-z-]+) *(.*)/\1\t\2/p'
    else
        printf '%s\n' $help | sed '1,/^Commands:/d' | sed -nE 's/^  ([a-z]+) +(.*)/\1\t\2/p'
        string match -q -- '*<file>' $help[1]
        and __fish_complete_path (commandline -ct)
    end
end
complete -c @PROGRAM@ -f -a '(__@PROGRAM@_candidates)'
