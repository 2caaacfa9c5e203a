// Finds the sections of the guide that hold all words of a query, the best first.

const BEFORE = 50; // characters of an excerpt before its first found word
const LONGEST = 190; // characters of an excerpt

/** Returns the query's words in lower case. */
export function wordsOf(query) {
  return query.toLowerCase().split(/\s+/).filter(Boolean);
}

/** Returns the sections in which every word occurs. A word in a heading counts more than a word in the text. */
export function find(sections, words) {
  return sections
    .map((section) => ({ section, rank: rankOf(section, words) }))
    .filter(({ rank }) => rank > 0)
    .sort((a, b) => b.rank - a.rank)
    .map(({ section }) => section);
}

function rankOf(section, words) {
  const [heading, page, text] = [section.heading, section.page, section.text].map((part) => part.toLowerCase());
  const phrase = words.join(" ");
  let rank = heading.includes(phrase) ? 8 : text.includes(phrase) ? 2 : 0;
  for (const word of words) {
    const places = 4 * heading.includes(word) + 2 * page.includes(word) + text.includes(word);
    if (places === 0) return 0;
    rank += places;
  }
  return rank;
}

/** Returns the part of a text around the first word that occurs in the text. */
export function excerpt(text, words) {
  const at = Math.max(0, text.search(pattern(words)) - BEFORE);
  const start = at === 0 ? 0 : text.indexOf(" ", at) + 1;
  const part = text.slice(start, start + LONGEST);
  const end = start + LONGEST < text.length ? part.lastIndexOf(" ") : part.length;
  return `${start > 0 ? "… " : ""}${part.slice(0, end > 0 ? end : LONGEST)}${start + LONGEST < text.length ? " …" : ""}`;
}

/** Splits a text so that every second part is a found word. */
export function pieces(text, words) {
  return text.split(pattern(words));
}

function pattern(words) {
  const longestFirst = [...words].sort((a, b) => b.length - a.length);
  return new RegExp(`(${longestFirst.map((word) => word.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|")})`, "i");
}
