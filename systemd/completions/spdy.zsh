#compdef @PROGRAM@
# Completion of @PROGRAM@ for zsh: what --help of the installed program says.

_spdy() {
    local program=$words[1] previous=$words[CURRENT-1] word help first short
    local -a deeper found
    help=$($program --help 2>/dev/null) || return 1
    # Down to the command that is being typed: `spdy-proxy key use`.
    for word in ${words[2,CURRENT-1]}; do
        [[ $word == [a-z]* && $help == *$'\nCommands:'*$'\n  '"$word "* ]] || continue
        deeper+=($word)
        help=$($program $deeper --help 2>/dev/null) || return 1
    done
    first=${help%%$'\n'*}
    # A flag that takes a value stands there as [--ca <file>], by its short name if it has one.
    [[ $help =~ $'\n  (-.), '"$previous"'[^a-z-]' ]] && short=$match[1]
    if [[ $previous == -* && $first == *"[${short:-$previous} <"* ]]; then
        case $previous in
            --log) compadd error warn info debug ;;
            --access) compadd password open ;;
            *) _files ;;
        esac
    elif [[ $PREFIX == -* ]]; then
        found=(${(f)"$(sed -nE \
            's/^  ((-.), )?(--[a-z-]+) *(.*)/\2:\4\n\3:\4/p' <<<$help | sed '/^:/d; s/:$//')"})
        _describe option found
    else
        found=(${(f)"$(sed '1,/^Commands:/d' <<<$help | sed -nE 's/^  ([a-z]+) +(.*)/\1:\2/p')"})
        if (( $#found )); then _describe command found
        elif [[ $first == *'<file>' ]]; then _files
        else _message 'no more'
        fi
    fi
}
_spdy "$@"
