/** Creates elements for the page `/docs`. */

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Text with `code` and **strong** words. */
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.startsWith("`")) return element("code", "", part.slice(1, -1));
    return part.startsWith("**") ? element("strong", "", part.slice(2, -2)) : part;
  });
}

/** The paragraphs of a description. */
export function prose(text) {
  return element("div", "prose", ...text.split("\n\n").map((paragraph) => element("p", "", ...inline(paragraph))));
}
