import { renderToString } from "react-dom/server";

import { Page } from "./page.jsx";

export const render = () => renderToString(<Page url="ws://localhost:1" user="server" />);
